package ingest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"databus/pkg/seal"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
	"databus/services/ingest/client"
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
	var identifiers strings.Builder
	for i := range 10_000 {
		fmt.Fprintf(&identifiers, `,"email_%d":"secret"`, i)
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
		"no identifier":         {records + "?strict=true", `{"record_id":"a","fields":{"note":"nobody"}}`, "", 400, "fields"},
		"no fields":             {records + "?strict=true", `{"record_id":"a"}`, "", 400, "fields"},
		"invalid mail":          {records + "?strict=true", `{"record_id":"a","fields":{"email":"secret at home"}}`, "", 400, "email"},
		"invalid phone":         {records + "?strict=true", `{"record_id":"a","fields":{"email":"a@mail.example","phone_2":"12"}}`, "", 400, "phone_2"},
		"strict":                {records + "?strict=maybe", `{"record_id":"a"}`, "", 400, "strict"},
		"5 MB":                  {records, `{"record_id":"a","fields":{"note":"` + strings.Repeat("x", 5<<20) + `"}}`, "", 413, ""},
		"10,000 identifiers":    {records, `{"record_id":"a","fields":{` + strings.TrimPrefix(identifiers.String(), ",") + `}}`, "", 413, ""},
		"wrong key version":     {records, `{"request_id":"1","recipient_key_id":"hpke-0000000000000000","sealed":"c2VjcmV0"}`, "", 400, "recipient_key_id"},
		"not sealed":            {records, `{"request_id":"1","recipient_key_id":"` + r.service.public.ID() + `","sealed":"c2VjcmV0"}`, "", 400, "sealed"},
		"sealed, no request id": {records, `{"recipient_key_id":"` + r.service.public.ID() + `","sealed":"c2VjcmV0"}`, "", 400, "request_id"},
		"sealed and not":        {records, `{"request_id":"1","record_id":"a","recipient_key_id":"x","sealed":"c2VjcmV0"}`, "", 400, "sealed"},
		"not base64":            {records, `{"request_id":"1","recipient_key_id":"x","sealed":"§"}`, "", 400, "sealed"},
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
	// The same in a batch: each line by itself, and nothing of a line that is wrong.
	lines := []string{`no JSON`, `{"record_id":"a","fields":{"email":"secret at home"}}`, `{"record_id":"a\u0007"}`, `{"record_id":"a","fields":{"x":"` + strings.Repeat("y", 5<<20) + `"}}`,
		`{"request_id":"1","recipient_key_id":"x","sealed":"c2VjcmV0"}`, `{"record_id":"a"}`}
	p := r.call("POST", records+"/batch?strict=true", strings.Join(lines, "\n"))
	var got []string
	for line := range strings.Lines(p.body) {
		res := decode[putResult](t, line)
		got = append(got, fmt.Sprint(res.Status, " ", res.Field))
		if res.Problem == "" || strings.Contains(line, "secret") {
			t.Errorf("line %s", line)
		}
	}
	if want := "400 |400 email|400 record_id|413 |400 recipient_key_id|400 fields"; p.status != 200 || strings.Join(got, "|") != want {
		t.Errorf("batch: %d %s, want %s", p.status, strings.Join(got, "|"), want)
	}
	if p := r.call("DELETE", records+"/a%00b", ""); p.status != 400 || p.problem(t).Field != "record_id" {
		t.Errorf("delete: %d %s", p.status, p.body)
	}
	if n := len(r.records()); n != 0 {
		t.Errorf("%d records were written", n)
	}
}

// 10,000 identifiers within the limit of bytes are too many fields.
func TestManyIdentifiers(t *testing.T) {
	r := newRig(t, nil)
	r.start()
	var fields strings.Builder
	for i := range 10_000 {
		fmt.Fprintf(&fields, `,"email_%d":"a@b.c"`, i)
	}
	p := r.call("POST", "/v1/accounts/acme/records", `{"record_id":"a","fields":{`+fields.String()[1:]+`}}`)
	if p.status == 413 { // the default limit of bytes came first
		t.Fatalf("%d: %s", p.status, p.body)
	}
	if p.status != 400 || p.problem(t).Field != "fields" || len(r.records()) != 0 {
		t.Errorf("%d: %s", p.status, p.body)
	}
}

// The graph to which the serving database is pinned is gone: nothing is written, and the answer names it.
func TestGraphGone(t *testing.T) {
	r := newRig(t, nil)
	r.announce("v2", "g-gone", event.DatabaseStateServing)
	r.announce("v1", "g-gone", event.DatabaseStateRetired)
	r.launch()
	r.Eventually("the answer names the graph", func() bool {
		p := r.call("POST", "/v1/accounts/acme/records", `{"record_id":"a","request_id":"1","fields":{"email":"a@mail.example"}}`)
		return p.status == http.StatusServiceUnavailable && p.problem(t).Field == "graph_version" && strings.Contains(p.body, "g-gone") && p.header.Get("Retry-After") != ""
	})
	p := r.call("POST", "/v1/accounts/acme/records/batch", `{"record_id":"a","request_id":"1"}`)
	if res := p.result(t); res.Status != http.StatusServiceUnavailable || res.Field != "graph_version" {
		t.Errorf("batch: %d %s", p.status, p.body)
	}
	if n := len(r.records()); n != 0 {
		t.Errorf("%d records were written", n)
	}
}

// A record may be sealed by its producer; it comes to the same.
func TestSealedRecord(t *testing.T) {
	r := newRig(t, nil)
	r.start()
	var key seal.PublicKey
	err := json.Unmarshal([]byte(r.call("GET", "/v1/public-key", "").body), &key)
	if err != nil {
		t.Fatal(err)
	}
	body := func(account, id string, del bool) string {
		t.Helper()
		plain, err := codec.ForEmbedded[event.CustomerRecord]("customer_record").Append(nil, &event.CustomerRecord{RecordID: "r1", Fields: map[string]string{"email": "anna@mail.example"}})
		if err != nil {
			t.Fatal(err)
		}
		sealed, err := key.SealRequest(account, id, plain)
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(map[string]any{"request_id": id, "recipient_key_id": key.ID(), "sealed": sealed, "delete": del})
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	const records = "/v1/accounts/acme/records"
	open := r.put("acme", "1", "r1", "anna@mail.example")
	if p := r.call("POST", records+"?wait=applied", body("acme", "2", false)); p.status != 200 || p.result(t).PersonID != open.PersonID {
		t.Errorf("sealed: %d %s", p.status, p.body)
	}
	if p := r.call("POST", records, body("other", "3", false)); p.status != 400 || p.problem(t).Field != "sealed" {
		t.Errorf("sealed for another account: %d %s", p.status, p.body)
	}
	if p := r.call("POST", records, strings.Replace(body("acme", "4", false), `"4"`, `"5"`, 1)); p.status != 400 || p.problem(t).Field != "sealed" {
		t.Errorf("under another request id: %d %s", p.status, p.body)
	}
	if p := r.call("POST", records+"/batch", body("acme", "6", true)); p.status != 200 || p.result(t).Status != 200 || p.result(t).FCID != "" {
		t.Errorf("sealed deletion: %d %s", p.status, p.body)
	}
	r.Eventually("it is deleted", func() bool { return r.call("GET", records+"/r1", "").status == 404 })

	// The client seals by itself, alone and in batches.
	c := client.Client{URL: "http://" + r.service.listener.Addr().String()}
	if c.PublicKey, err = c.FetchPublicKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	anna := client.Record{RecordID: "r2", Fields: map[string]string{"email": "anna@mail.example"}}
	if res, err := c.Put(t.Context(), "acme", anna, true); err != nil || res.PersonID != open.PersonID {
		t.Errorf("put: %+v, %v", res, err)
	}
	res, err := c.PutBatch(t.Context(), "acme", []client.Record{anna, {RecordID: "a\x00"}, {RecordID: "r2", Delete: true}})
	if err != nil || res[0].PersonID != open.PersonID || res[1].Field != "record_id" || res[2].FCID != "" || res[2].Status != 200 {
		t.Errorf("batch: %+v, %v", res, err)
	}
}
