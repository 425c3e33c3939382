package blob_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"databus/pkg/blob"
	"databus/pkg/seal/kmstest"
)

// rulesServer answers as S3 does about a bucket's lifecycle rules, and keeps their XML. Real servers are asked in test/blob.
type rulesServer struct {
	rules         string
	unknown, deaf bool
	puts          int
}

func (s *rulesServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	fail := func(code int, name string) {
		w.WriteHeader(code)
		fmt.Fprintf(w, "<Error><Code>%s</Code><Message>no</Message></Error>", name)
	}
	switch {
	case !r.URL.Query().Has("lifecycle"): // the question for the bucket
	case s.unknown:
		fail(http.StatusNotImplemented, "NotImplemented")
	case r.Method == http.MethodGet && s.rules == "":
		fail(http.StatusNotFound, "NoSuchLifecycleConfiguration")
	case r.Method == http.MethodGet:
		fmt.Fprint(w, s.rules)
	case r.Method == http.MethodPut:
		s.puts++
		if b, err := io.ReadAll(r.Body); err == nil && !s.deaf {
			s.rules = string(b)
		}
	}
}

const (
	keepsAll = `<LifecycleConfiguration><Rule><ID>old</ID><Status>Enabled</Status><Filter><Prefix>logs/</Prefix></Filter><Expiration><Days>7</Days></Expiration></Rule>%s</LifecycleConfiguration>`
	drops    = `<Rule><ID>own</ID><Status>%s</Status><Filter><Prefix>%s</Prefix></Filter><AbortIncompleteMultipartUpload><DaysAfterInitiation>9</DaysAfterInitiation></AbortIncompleteMultipartUpload></Rule>`
)

func TestDropDeadParts(t *testing.T) {
	kmstest.Credentials(t)
	for name, c := range map[string]struct {
		server rulesServer
		set    bool
		err    error
	}{
		"None":          {rulesServer{}, true, nil},
		"Others":        {rulesServer{rules: fmt.Sprintf(keepsAll, "")}, true, nil},
		"ThereAlready":  {rulesServer{rules: fmt.Sprintf(keepsAll, fmt.Sprintf(drops, "Enabled", ""))}, false, nil},
		"OfThePrefix":   {rulesServer{rules: fmt.Sprintf(keepsAll, fmt.Sprintf(drops, "Enabled", "data/"))}, false, nil},
		"OfAnother":     {rulesServer{rules: fmt.Sprintf(keepsAll, fmt.Sprintf(drops, "Enabled", "data/part/"))}, true, nil},
		"SwitchedOff":   {rulesServer{rules: fmt.Sprintf(keepsAll, fmt.Sprintf(drops, "Disabled", ""))}, true, nil},
		"UnknownToIt":   {rulesServer{unknown: true}, false, errors.ErrUnsupported},
		"ForgottenByIt": {rulesServer{deaf: true}, false, errors.ErrUnsupported},
	} {
		t.Run(name, func(t *testing.T) {
			before := c.server.rules
			server := httptest.NewServer(&c.server)
			defer server.Close()
			b, err := blob.OpenS3(t.Context(), blob.S3Options{Bucket: "bucket", Prefix: "data", Endpoint: server.URL, PathStyle: true})
			if err != nil {
				t.Fatal(err)
			}
			set, err := b.DropDeadParts(t.Context())
			if set != c.set || !errors.Is(err, c.err) {
				t.Fatalf("%t, %v", set, err)
			}
			if !set {
				if c.server.rules != before || err == nil && c.server.puts > 0 {
					t.Errorf("the rules were written: %s", c.server.rules)
				}
				return
			}
			for _, want := range []string{"<ID>databus-parts-of-dead-uploads</ID>", "<Prefix>data/</Prefix>", "<DaysAfterInitiation>2</DaysAfterInitiation>"} {
				if !strings.Contains(c.server.rules, want) {
					t.Errorf("no %s in %s", want, c.server.rules)
				}
			}
			if before != "" && (!strings.Contains(c.server.rules, "<ID>old</ID>") || !strings.Contains(c.server.rules, "<Days>7</Days>")) {
				t.Errorf("what was there is gone: %s", c.server.rules)
			}
			if again, err := b.DropDeadParts(t.Context()); again || err != nil || c.server.puts != 1 {
				t.Errorf("the second time: %t, %v", again, err)
			}
		})
	}
}
