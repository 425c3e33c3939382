package seal

import (
	"bytes"
	"encoding/hex"
	"errors"
	"sync"
	"testing"

	"databus/pkg/internal/kafkatest"
	"databus/pkg/seal/kmstest"
	"databus/schemas"
	"databus/schemas/event"
)

const (
	arnA = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
	arnB = "arn:aws:kms:us-east-1:111122223333:key/ffffabcd-12ab-34cd-56ef-1234567890ab"
)

// withKMS is a copy of the keys of a file, as another process that uses a key of the double has them.
func withKMS(t testing.TB, path, arn string, server *kmstest.Server) *Keys {
	t.Helper()
	k, err := Load(t.Context(), path, AWSKMS{URI: "aws-kms://" + arn, Endpoint: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// A deployment moves from the key file's key-encryption key to KMS: what was wrapped before opens, what comes after is
// wrapped by KMS, and a process asks KMS once for each key.
func TestKMSWrapsDataKeys(t *testing.T) {
	server := kmstest.New(t, arnA, arnB)
	bed := kafkatest.New(t, schemas.KeysEvents)
	fileOnly, path := generate(t)
	keys := withKMS(t, path, arnA, server)
	old := record(t, openKeyring(t, bed, fileOnly, 0), "before", "r", "old")

	ring := openKeyring(t, bed, keys, 0)
	if got, err := ring.Open(t.Context(), nil, old); err != nil || string(got) != "old" {
		t.Fatalf("wrapped by the key file: %q, %v", got, err)
	}
	if _, err := ring.Rotate(t.Context(), "before", RecordScope); err != nil {
		t.Fatal(err)
	}
	var recs []*event.DatabusRecord
	for _, r := range []string{"r1", "r2", "r3"} {
		recs = append(recs, record(t, ring, "before", r, r))
	}
	if n := server.Calls("Encrypt"); n != 1 {
		t.Errorf("%d calls to wrap one key", n)
	}
	later := openKeyring(t, bed, withKMS(t, path, arnA, server), 0)
	before := server.Calls("Decrypt")
	var wg sync.WaitGroup
	for range 8 {
		for _, rec := range recs {
			wg.Go(func() {
				if got, err := later.Open(t.Context(), nil, rec); err != nil || string(got) != rec.RecordKey {
					t.Errorf("%q, %v", got, err)
				}
			})
		}
	}
	wg.Wait()
	if n := server.Calls("Decrypt") - before; n != 1 {
		t.Errorf("%d calls to unwrap one key", n)
	}
	for _, i := range later.List() {
		if i.Kind == event.KeyEventKindCreated && i.RecordKey == "" && i.WrappedBy != "aws-kms://"+arnA {
			t.Errorf("%+v", i)
		}
	}
	for _, c := range server.Contexts() {
		if id, err := hex.DecodeString(c["associatedData"]); err != nil || !bytes.HasPrefix(id, []byte("before/")) {
			t.Errorf("encryption context %v", c)
		}
	}

	// What cannot be opened now is not lost: only a wrapping that KMS itself calls invalid is.
	for name, c := range map[string]struct {
		keys *Keys
		want error
	}{
		"without KMS":         {fileOnly, ErrWrongKEK},
		"with another key":    {withKMS(t, path, arnB, server), ErrWrongKEK},
		"with a disabled key": {keys, ErrKEKUnavailable},
	} {
		server.Disable(name == "with a disabled key")
		if _, err := openKeyring(t, bed, c.keys, 0).Open(t.Context(), nil, recs[0]); !errors.Is(err, c.want) || errors.Is(err, ErrTampered) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	server.Disable(false)
	wrapped, err := keys.wrap(t.Context(), "a/1", make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := keys.unwrap(t.Context(), "a/2", keys.KEKID(), wrapped); !errors.Is(err, ErrTampered) {
		t.Errorf("under another id: %v", err)
	}
	wrapped[len(wrapped)-1] ^= 1
	if _, err := keys.unwrap(t.Context(), "a/1", keys.KEKID(), wrapped); !errors.Is(err, ErrTampered) {
		t.Errorf("changed: %v", err)
	}
}

func TestKMSURI(t *testing.T) {
	for _, bad := range []string{"", arnA, "aws-kms://", "aws-kms://arn:aws:kms:eu-central-1:111122223333:alias/x", "aws-kms://arn:aws:s3:::x", "gcp-kms://" + arnA} {
		if err := (AWSKMS{URI: bad}).Validate(); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	if err := (AWSKMS{URI: "aws-kms://" + arnA}).Validate(); err != nil {
		t.Error(err)
	}
}
