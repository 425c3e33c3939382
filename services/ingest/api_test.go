package ingest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"databus/schemas"
	"databus/schemas/event"
)

func TestOneRecord(t *testing.T) {
	r := newRig(t, nil)
	r.start()
	const base = "/v1/accounts/acme"
	email := `"fields":{"email":"anna@mail.example"}}`

	first := r.call("POST", base+"/records?wait=applied", `{"record_id":"rec/one","request_id":"one",`+email)
	if first.status != http.StatusOK {
		t.Fatalf("%d: %s", first.status, first.body)
	}
	one := first.result(t)
	if !one.Applied || one.RequestID != "one" || len(one.FCID) != 32 || one.PersonID == "" || one.GraphVersion == "" {
		t.Errorf("result %+v", one)
	}
	unnamed := r.call("POST", base+"/records", `{"record_id":"r2",`+email).result(t)
	if unnamed.RequestID == "" || unnamed.Applied {
		t.Errorf("without a request id: %+v", unnamed)
	}
	named := r.call("POST", base+"/records?wait=applied", `{"record_id":"r3",`+email, "Idempotency-Key", "three").result(t)
	if named.RequestID != "three" || !named.Applied || named.FCID != one.FCID || named.PersonID != one.PersonID {
		t.Errorf("with a key in the header: %+v", named)
	}

	got := decode[found](t, r.call("GET", base+"/records/rec%2Fone", "").body)
	if got.RecordID != "rec/one" || got.FCID != one.FCID || got.PersonID != one.PersonID || got.Fields["email"] != "anna@mail.example" {
		t.Errorf("by RecordID: %+v", got)
	}
	for _, path := range []string{"/persons/" + one.PersonID, "/persons/" + strings.ToUpper(one.PersonID), "/fcids/" + one.FCID} {
		r.Eventually("three records by "+path, func() bool {
			return len(decode[foundList](t, r.call("GET", base+path, "").body).Records) == 3
		})
	}
	// The other account knows the same person under another id, and sees its own records alone.
	other := r.put("other", "one", "rec/one", "anna@mail.example")
	if other.FCID != one.FCID || other.PersonID == one.PersonID {
		t.Errorf("two accounts: %+v, %+v", one, other)
	}
	if list := decode[foundList](t, r.call("GET", "/v1/accounts/other/fcids/"+one.FCID, "").body); len(list.Records) != 1 || list.Records[0].PersonID != other.PersonID {
		t.Errorf("by FCID in the other account: %+v", list)
	}
	for _, path := range []string{"/v1/accounts/other/persons/" + one.PersonID, "/v1/accounts/nobody/fcids/" + one.FCID, "/v1/accounts/nobody/records/rec%2Fone", base + "/records/none"} {
		if p := r.call("GET", path, ""); p.status != http.StatusNotFound {
			t.Errorf("%s: %d %s", path, p.status, p.body)
		} else {
			p.problem(t)
		}
	}

	// A repeat changes nothing, and waiting for it does not wait for a version that never comes.
	start := time.Now()
	again := r.call("POST", base+"/records?wait=applied", `{"record_id":"rec/one","request_id":"one","fields":{"email":"other@mail.example"}}`)
	if p := again.result(t); again.status != http.StatusOK || !p.Applied || time.Since(start) > 5*time.Second {
		t.Errorf("repeat after %v: %d %s", time.Since(start), again.status, again.body)
	}
	if got := decode[found](t, r.call("GET", base+"/records/rec%2Fone", "").body); got.Fields["email"] != "anna@mail.example" {
		t.Errorf("after a repeat: %+v", got)
	}

	if p := r.call("DELETE", base+"/records/rec%2Fone?wait=applied", "", "Idempotency-Key", "gone"); p.status != http.StatusOK || !p.result(t).Applied || p.result(t).FCID != "" {
		t.Errorf("delete: %d %s", p.status, p.body)
	}
	if p := r.call("GET", base+"/records/rec%2Fone", ""); p.status != http.StatusNotFound {
		t.Errorf("after the delete: %d %s", p.status, p.body)
	}
	if list := decode[foundList](t, r.call("GET", base+"/persons/"+one.PersonID, "").body); len(list.Records) != 2 {
		t.Errorf("after the delete: %+v", list)
	}
	r.stop()

	// Nothing readable on the Databus; each request is one usage event, however often it was sent.
	for _, rec := range r.read(schemas.DatabusRecords) {
		if s := string(rec.Key) + string(rec.Value); strings.Contains(s, "anna") || strings.Contains(s, "rec/one") {
			t.Errorf("offset %d of partition %d holds plain text", rec.Offset, rec.Partition)
		}
	}
	ids := map[string]int{}
	for _, u := range events[event.UsageEvent](r, schemas.UsageEvents) {
		if u.Pack == packWrite {
			ids[u.Account+"/"+u.EventID]++
		}
	}
	if len(ids) != 5 || ids["acme/"+usageID("acme", "one")] != 2 {
		t.Errorf("usage events of writes: %v", ids)
	}
	r.modelled("v1", "model")
}

func TestBatch(t *testing.T) {
	r := newRig(t, map[string]any{"api.max_batch": 8, "api.max_body": 1024, "api.lookup_limit": 2})
	r.start()
	lines := []string{
		`{"record_id":"a","request_id":"1","fields":{"email":"a@mail.example"}}`,
		`{"record_id":"b","request_id":"2","fields":{"email":5}}`,
		``,
		`{"record_id":"` + strings.Repeat("x", 5000) + `"}`,
		`{"record_id":"","request_id":"4"}`,
		`{"record_id":"c","request_id":"5","fields":{"email":"a@mail.example"}}` + "\r",
		`{"record_id":"d","request_id":"6","fields":{"email":"a@mail.example"}}`,
		`{"record_id":"a","request_id":"7","delete":true}`,
		`{"record_id":"never","request_id":"8"}`,
	}
	p := r.call("POST", "/v1/accounts/acme/records/batch", strings.Join(lines, "\n"))
	var got []string
	var last int64
	for line := range strings.Lines(p.body) {
		res := decode[putResult](t, line)
		got = append(got, fmt.Sprint(res.RequestID, " ", res.Status, " ", res.Field))
		if res.RequestID == "1" || res.RequestID == "7" {
			if res.Offset <= last-1 {
				t.Errorf("versions of a record out of order: %s", p.body)
			}
			last = res.Offset
		}
	}
	want := []string{"1 200 ", " 400 fields", " 413 ", "4 400 record_id", "5 200 ", "6 200 ", "7 200 ", " 413 "}
	if p.status != http.StatusOK || len(got) != len(want) {
		t.Fatalf("%d: %s", p.status, p.body)
	}
	for i := range want {
		// A line that could not be decoded may still have told its id.
		if got[i] != want[i] && !strings.HasSuffix(got[i], want[i]) && !(i == 1 && strings.Contains(got[i], " 400 fields")) {
			t.Errorf("line %d: %q, want %q: %s", i, got[i], want[i], p.body)
		}
	}
	if !strings.Contains(p.body, "line 4: at most 1024 bytes") || !strings.Contains(p.body, "at most 8 lines; line 9 and the rest were not read") {
		t.Errorf("answers: %s", p.body)
	}
	if n := len(r.records()); n != 4 {
		t.Errorf("%d records on the Databus, want 4", n)
	}
	// More records of a person than a look-up returns.
	one := r.put("acme", "9", "e", "a@mail.example")
	r.put("acme", "10", "f", "a@mail.example")
	if list := decode[foundList](t, r.call("GET", "/v1/accounts/acme/persons/"+one.PersonID, "").body); len(list.Records) != 2 || !list.Truncated {
		t.Errorf("by PersonID: %+v", list)
	}
	// The same batch again, in other pieces, counts nothing again.
	r.call("POST", "/v1/accounts/acme/records/batch", lines[0]+"\n"+lines[6])
	r.stop()
	r.modelled("v1", "model")
	ids := map[string]bool{}
	for _, u := range events[event.UsageEvent](r, schemas.UsageEvents) {
		if ids[u.EventID] = true; u.Pack == packWrite && u.Quantity != 1 {
			t.Errorf("usage event %+v", u)
		}
	}
	if len(ids) != 4+2+1 { // records, two more, one look-up
		t.Errorf("%d different usage events", len(ids))
	}
}

func TestBadInput(t *testing.T) {
	r := newRig(t, map[string]any{"api.max_body": 4096})
	r.start()
	var many strings.Builder
	for i := range 257 {
		fmt.Fprintf(&many, `,"f%d":""`, i)
	}
	const records = "/v1/accounts/acme/records"
	for name, c := range map[string]struct {
		path, body, key string
		status          int
		field           string
	}{
		"no record id":          {records, `{"fields":{"email":"a@mail.example"}}`, "", 400, "record_id"},
		"control character":     {records, `{"record_id":"a\u0000b"}`, "", 400, "record_id"},
		"control in request id": {records, `{"record_id":"a","request_id":"a\nb"}`, "", 400, "request_id"},
		"long idempotency key":  {records, `{"record_id":"a"}`, strings.Repeat("k", 129), 400, "request_id"},
		"unknown field":         {records, `{"record_id":"a","recordid":"b"}`, "", 400, "recordid"},
		"field not a string":    {records, `{"record_id":"a","fields":{"age":7}}`, "", 400, "fields"},
		"fields not an object":  {records, `{"record_id":"a","fields":["x"]}`, "", 400, "fields"},
		"record id a number":    {records, `{"record_id":12345}`, "", 400, "record_id"},
		"delete a string":       {records, `{"record_id":"a","delete":"yes"}`, "", 400, "delete"},
		"field name":            {records, `{"record_id":"a","fields":{"e mail":"x"}}`, "", 400, "fields"},
		"too many fields":       {records, `{"record_id":"a","fields":{"f":""` + many.String() + `}}`, "", 400, "fields"},
		"no JSON":               {records, `record_id=secret`, "", 400, ""},
		"an array":              {records, `[]`, "", 400, ""},
		"two objects":           {records, `{"record_id":"a"}{"record_id":"b"}`, "", 400, ""},
		"not UTF-8":             {records, "{\"record_id\":\"\xff\"}", "", 400, ""},
		"empty body":            {records, "", "", 400, ""},
		"too large":             {records, `{"record_id":"` + strings.Repeat("secret", 4096) + `"}`, "", 413, ""},
		"empty account":         {"/v1/accounts//records", `{"record_id":"a"}`, "", 400, "account"},
		"account":               {"/v1/accounts/a%2Fb/records", `{"record_id":"a"}`, "", 400, "account"},
		"no such path":          {"/v1/accounts/acme/record", `{"record_id":"a"}`, "", 404, ""},
	} {
		p := r.call("POST", c.path, c.body, "Idempotency-Key", c.key)
		got := p.problem(t)
		if p.status != c.status || got.Field != c.field && !strings.HasPrefix(got.Field, c.field+".") || (c.field == "") != (got.Field == "") {
			t.Errorf("%s: %d %s", name, p.status, p.body)
		}
		if strings.Contains(p.body, "12345") || strings.Contains(p.body, "secret") || strings.Contains(p.body, "putBody") {
			t.Errorf("%s: the answer quotes the body: %s", name, p.body)
		}
	}
	for path, field := range map[string]string{"/persons/12": "id", "/fcids/xyz": "id"} {
		if p := r.call("GET", "/v1/accounts/acme"+path, ""); p.status != 400 || p.problem(t).Field != field {
			t.Errorf("%s: %d %s", path, p.status, p.body)
		}
	}
	if p := r.call("DELETE", records+"/a%00b", ""); p.status != 400 || p.problem(t).Field != "record_id" {
		t.Errorf("delete: %d %s", p.status, p.body)
	}
	if n := len(r.records()); n != 0 {
		t.Errorf("%d records were written", n)
	}
}

func TestAuthorisation(t *testing.T) {
	type entry struct {
		SHA256  string   `json:"sha256"`
		Account string   `json:"account"`
		Scopes  []string `json:"scopes"`
	}
	var entries []entry
	for key, scopes := range map[string][]string{"full": {"read", "write"}, "reader": {"read"}, "writer": {"write"}, "other": {"read", "write"}} {
		sum := sha256.Sum256([]byte(key))
		account := map[bool]string{true: "other", false: "acme"}[key == "other"]
		entries = append(entries, entry{hex.EncodeToString(sum[:]), account, scopes})
	}
	b, err := json.Marshal(entries)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "keys.json")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	r := newRig(t, map[string]any{"api.keys_file": file})
	r.start()
	const base = "/v1/accounts/acme"
	for _, c := range []struct {
		method, path, lacking string
		allowed               int
	}{
		{"POST", base + "/records", "reader", 200},
		{"POST", base + "/records/batch", "reader", 200},
		{"DELETE", base + "/records/a", "reader", 200},
		{"GET", base + "/records/a", "writer", 404},
		{"GET", base + "/persons/00000000-0000-8000-8000-000000000000", "writer", 404},
		{"GET", base + "/fcids/00000000000000000000000000000000", "writer", 404},
	} {
		for key, want := range map[string]int{"": 401, "Bearer": 401, "Bearer ": 401, "Basic full": 401, "Bearer unknown": 401, "Bearer other": 403, "Bearer " + c.lacking: 403} {
			p := r.call(c.method, c.path, `{"record_id":"a"}`, "Authorization", key)
			if p.status != want || p.problem(t).Status != want || (want == 401) != (p.header.Get("WWW-Authenticate") == "Bearer") {
				t.Errorf("%s %s with %q: %d %v", c.method, c.path, key, p.status, p.header)
			}
		}
		if n := len(r.records()); c.method == "POST" && c.allowed == 404 && n != 0 {
			t.Errorf("%d records were written", n)
		}
		if p := r.call(c.method, c.path, `{"record_id":"a"}`, "Authorization", "bearer full"); p.status != c.allowed {
			t.Errorf("%s %s with the key: %d %s", c.method, c.path, p.status, p.body)
		}
	}
	if n := len(r.records()); n != 3 {
		t.Errorf("%d records were written, want 3", n)
	}
	for name, bad := range map[string]string{
		"expiry": `[{"sha256":"` + entries[0].SHA256 + `","account":"acme","scopes":["read"],"expires":"2020-01-01"}]`,
		"short":  `[{"sha256":"00","account":"acme","scopes":["read"]}]`,
		"scope":  `[{"sha256":"` + entries[0].SHA256 + `","account":"acme","scopes":["admin"]}]`,
		"none":   `[]`,
	} {
		if err := os.WriteFile(file, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := loadAPIKeys(file); err == nil {
			t.Errorf("key file %s was taken", name)
		}
	}
}
