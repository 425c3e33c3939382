package embedded

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/riferrei/srclient"
	"github.com/twmb/franz-go/pkg/sr"
)

func startRegistry(t *testing.T, opts RegistryOptions) *Registry {
	t.Helper()
	r, err := StartRegistry(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

func srClient(t *testing.T, r *Registry) *sr.Client {
	t.Helper()
	cl, err := sr.NewClient(sr.URLs(r.URL()))
	if err != nil {
		t.Fatal(err)
	}
	return cl
}

func record(fields string) string {
	return `{"type":"record","name":"User","namespace":"test","fields":[` + fields + `]}`
}

const (
	name      = `{"name":"name","type":"string"}`
	ageNeeded = `{"name":"age","type":"int"}`
	age       = `{"name":"age","type":"int","default":0}`
	address   = `{"name":"address","type":{"type":"record","name":"Address","fields":[{"name":"zip","type":"%s"}]}}`
)

func create(t *testing.T, cl *sr.Client, subject, text string) (sr.SubjectSchema, error) {
	t.Helper()
	return cl.CreateSchema(testContext(t), subject, sr.Schema{Schema: text})
}

func TestRegistryKeepsIDsOverRestarts(t *testing.T) {
	dir := t.TempDir()
	r := startRegistry(t, RegistryOptions{Dir: dir, Level: LevelBackwardTransitive})
	cl := srClient(t, r)
	first, err := create(t, cl, "users-value", record(name))
	if err != nil || first.ID != 1 || first.Version != 1 {
		t.Fatal(first, err)
	}
	second, err := create(t, cl, "users-value", record(name+","+age))
	if err != nil || second.ID != 2 || second.Version != 2 {
		t.Fatal(second, err)
	}
	// The same schema written otherwise, elsewhere: the same id.
	reordered := `{ "namespace":"test", "name":"User", "type":"record", "fields": [ {"type":"string","name":"name"} ] }`
	if other, err := create(t, cl, "people/value", reordered); err != nil || other.ID != 1 || other.Version != 1 {
		t.Fatal(other, err)
	}
	// Documentation counts: a reader of the registry shall find what was registered.
	if other, err := create(t, cl, "docs", strings.Replace(record(name), `"namespace"`, `"doc":"d","namespace"`, 1)); err != nil || other.ID != 3 {
		t.Fatal(other, err)
	}
	if res := cl.SetCompatibility(testContext(t), sr.SetCompatibility{Level: sr.CompatFullTransitive}, "people/value"); res[0].Err != nil {
		t.Fatal(res[0].Err)
	}
	for range 2 {
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		r = startRegistry(t, RegistryOptions{Dir: dir})
		cl = srClient(t, r)
		if s, err := cl.SchemaByID(testContext(t), 2); err != nil || s.Schema != record(name+","+age) {
			t.Fatalf("schema 2: %v %v", s.Schema, err)
		}
		if s, err := create(t, cl, "users-value", record(name)); err != nil || s.ID != 1 || s.Version != 1 {
			t.Fatal(s, err)
		}
		uses, err := cl.SchemaUsagesByID(testContext(t), 1)
		if err != nil || len(uses) != 2 {
			t.Fatal(uses, err)
		}
		names, err := cl.Subjects(testContext(t))
		if err != nil || fmt.Sprint(names) != "[docs people/value users-value]" {
			t.Fatal(names, err)
		}
		levels := cl.Compatibility(testContext(t), "people/value", sr.GlobalSubject)
		if levels[0].Level != sr.CompatFullTransitive || levels[1].Level != sr.CompatBackwardTransitive {
			t.Fatal(levels)
		}
	}
}

func TestRegistryServesSrclient(t *testing.T) {
	dir := t.TempDir()
	r := startRegistry(t, RegistryOptions{Dir: dir})
	var ids []int
	for round := range 2 {
		cl := srclient.NewSchemaRegistryClient(r.URL())
		if level, err := cl.ChangeSubjectCompatibilityLevel("users-value", srclient.FullTransitive); err != nil || *level != srclient.FullTransitive {
			t.Fatal(level, err)
		}
		for i, text := range []string{record(name), record(name + "," + age)} {
			s, err := cl.CreateSchema("users-value", text, srclient.Avro)
			if err != nil {
				t.Fatal(err)
			}
			if round == 0 {
				ids = append(ids, s.ID())
			} else if s.ID() != ids[i] {
				t.Fatalf("id %d, before the restart %d", s.ID(), ids[i])
			}
			found, err := cl.LookupSchema("users-value", text, srclient.Avro)
			if err != nil || found.ID() != s.ID() || found.Version() != i+1 {
				t.Fatal(found, err)
			}
		}
		latest, err := cl.GetLatestSchema("users-value")
		if err != nil || latest.Version() != 2 || latest.Schema() != record(name+","+age) {
			t.Fatal(latest, err)
		}
		ok, err := cl.IsSchemaCompatible("users-value", record(ageNeeded), "latest", srclient.Avro)
		if err != nil || ok {
			t.Fatal("taken for compatible", err)
		}
		_, err = cl.CreateSchema("users-value", record(ageNeeded), srclient.Avro)
		var refused srclient.Error
		if !errors.As(err, &refused) || refused.Code != 409 {
			t.Fatalf("refused with %v", err)
		}
		_ = r.Close()
		r = startRegistry(t, RegistryOptions{Dir: dir})
	}
}

func TestRegistryLevels(t *testing.T) {
	added, removed := record(name+","+ageNeeded), record(name)
	for _, c := range []struct {
		level    Level
		history  []string
		fresh    string
		accepted bool
	}{
		{LevelNone, []string{record(name)}, record(fmt.Sprintf(address, "long")), true},
		{LevelBackward, []string{removed}, added, false},
		{LevelBackward, []string{added}, removed, true},
		{LevelForward, []string{removed}, added, true},
		{LevelForward, []string{added}, removed, false},
		{LevelFull, []string{removed}, added, false},
		{LevelFull, []string{added}, removed, false},
		{LevelFull, []string{removed}, record(name + "," + age), true},
		// int, then gone, then string: only the transitive levels see the first.
		{LevelBackward, []string{added, removed}, record(name + `,{"name":"age","type":"string","default":""}`), true},
		{LevelBackwardTransitive, []string{added, removed}, record(name + `,{"name":"age","type":"string","default":""}`), false},
		{LevelForward, []string{record(name + "," + age), removed}, record(name + `,{"name":"age","type":"string"}`), true},
		{LevelForwardTransitive, []string{record(name + "," + age), removed}, record(name + `,{"name":"age","type":"string"}`), false},
		{LevelFull, []string{record(name + "," + age), removed}, record(name + `,{"name":"age","type":"string","default":""}`), true},
		{LevelFullTransitive, []string{record(name + "," + age), removed}, record(name + `,{"name":"age","type":"string","default":""}`), false},
	} {
		for _, own := range []bool{false, true} { // the subject's own level, or the registry's
			opts := RegistryOptions{Level: LevelNone}
			r := startRegistry(t, opts)
			cl := srClient(t, r)
			for _, text := range c.history {
				if _, err := create(t, cl, "s", text); err != nil {
					t.Fatal(err)
				}
			}
			subject := sr.GlobalSubject
			if own {
				subject = "s"
			}
			var level sr.CompatibilityLevel
			if err := level.UnmarshalText([]byte(c.level)); err != nil {
				t.Fatal(err)
			}
			if res := cl.SetCompatibility(testContext(t), sr.SetCompatibility{Level: level}, subject); res[0].Err != nil {
				t.Fatal(res[0].Err)
			}
			_, err := create(t, cl, "s", c.fresh)
			if c.accepted != (err == nil) {
				t.Errorf("%s %v, then %s: %v", c.level, c.history, c.fresh, err)
			}
			var refused *sr.ResponseError
			if err != nil && (!errors.As(err, &refused) || refused.StatusCode != 409 || refused.ErrorCode != 409) {
				t.Errorf("refused with %v", err)
			}
			_ = r.Close()
		}
	}
}

func TestRegistryNamesThePath(t *testing.T) {
	r := startRegistry(t, RegistryOptions{})
	cl := srClient(t, r)
	if _, err := create(t, cl, "s", record(fmt.Sprintf(address, "long"))); err != nil {
		t.Fatal(err)
	}
	_, err := create(t, cl, "s", record(fmt.Sprintf(address, "string")))
	for _, want := range []string{"address.zip", "version 1", "BACKWARD", `"s"`, "string", "long"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not name %s", err, want)
		}
	}
}

func TestRegistryRefusesBadRequests(t *testing.T) {
	r := startRegistry(t, RegistryOptions{})
	if _, err := create(t, srClient(t, r), "s", `"string"`); err != nil {
		t.Fatal(err)
	}
	deep := strings.Repeat(`{"type":"array","items":`, 300) + `"int"` + strings.Repeat("}", 300)
	for _, c := range []struct {
		method, path, body string
		status, code       int
	}{
		{"POST", "/subjects/s/versions", `{"schema":"{\"type\":\"nothing\"}"}`, 422, 42201},
		{"POST", "/subjects/s/versions", `{"schema":"{\"type\":"}`, 422, 42201},
		{"POST", "/subjects/s/versions", `{"schema":""}`, 422, 42201},
		{"POST", "/subjects/s/versions", `{"schema":"\"int\"","schemaType":"PROTOBUF"}`, 422, 42201},
		{"POST", "/subjects/s/versions", `{"schema":"\"int\"","references":[{"name":"a","subject":"b","version":1}]}`, 422, 42201},
		{"POST", "/subjects/s/versions", fmt.Sprintf(`{"schema":%q}`, deep), 422, 42201},
		{"POST", "/subjects/s/versions", `{"schema":"` + strings.Repeat(" ", maxBody) + `"}`, 413, 42209},
		{"POST", "/subjects/s/versions", `not json`, 422, 42201},
		{"POST", "/subjects/s", `{"schema":"\"int\""}`, 404, 40403},
		{"POST", "/subjects/other", `{"schema":"\"int\""}`, 404, 40401},
		{"GET", "/schemas/ids/2", "", 404, 40403},
		{"GET", "/schemas/ids/-1", "", 404, 40403},
		{"GET", "/schemas/ids/0/versions", "", 404, 40403},
		{"GET", "/subjects/other/versions", "", 404, 40401},
		{"GET", "/subjects/s/versions/2", "", 404, 40402},
		{"GET", "/subjects/s/versions/x", "", 422, 42202},
		{"PUT", "/config", `{"compatibility":"SOMEHOW"}`, 422, 42203},
		{"GET", "/config/s", "", 404, 40408},
	} {
		req, err := http.NewRequestWithContext(testContext(t), c.method, r.URL()+c.path, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != c.status || !strings.Contains(string(answer), fmt.Sprintf(`"error_code":%d`, c.code)) {
			t.Errorf("%s %s %.60s: %d %s", c.method, c.path, c.body, resp.StatusCode, answer)
		}
	}
}

func TestRegistryUnderConcurrency(t *testing.T) {
	dir := t.TempDir()
	r := startRegistry(t, RegistryOptions{Dir: dir, Level: LevelNone})
	cl := srClient(t, r)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for v := range 5 {
				text := record(fmt.Sprintf(`{"name":"f%d","type":"int","default":0}`, v))
				if _, err := cl.CreateSchema(testContext(t), fmt.Sprintf("s%d", i%4), sr.Schema{Schema: text}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := len(r.state.Schemas); n != 5 {
		t.Errorf("%d schemas for 5 texts", n)
	}
	for i := range 4 {
		if n := len(r.state.Subjects[fmt.Sprintf("s%d", i)].Versions); n != 5 {
			t.Errorf("subject %d has %d versions", i, n)
		}
	}
}

func TestRegistryDoesNotStartOnDamage(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "registry.json"), []byte(`{"level":"NONE","schemas":[`), 0o600); err != nil {
		t.Fatal(err)
	}
	if r, err := StartRegistry(RegistryOptions{Dir: dir}); err == nil {
		_ = r.Close()
		t.Fatal("started on half a file")
	}
	dir = t.TempDir()
	_ = startRegistry(t, RegistryOptions{Dir: dir})
	if r, err := StartRegistry(RegistryOptions{Dir: dir}); err == nil {
		_ = r.Close()
		t.Fatal("two registries share a directory")
	}
}

func TestStack(t *testing.T) {
	dir := t.TempDir()
	for i := range 2 {
		s, err := StartStack(StackOptions{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		if s.Broker.Starts() != i+1 {
			t.Errorf("start %d is counted as %d", i+1, s.Broker.Starts())
		}
		if _, err := create(t, srClient(t, s.Registry), "s", `"string"`); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	for _, sub := range []string{"kafka", "registry"} {
		if _, err := os.Stat(filepath.Join(dir, sub)); err != nil {
			t.Error(err)
		}
	}
	if s := ForTest(t); s.Broker.Addr() == "" || s.Registry.URL() == "" {
		t.Error("the stack has no addresses")
	}
}
