package ingest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v5"

	"databus/pkg/history/historytest"
	"databus/pkg/limits"
	"databus/schemas"
	"databus/schemas/event"
)

// apiDocument is the part of the OpenAPI document that the tests hold against the code.
type apiDocument struct {
	OpenAPI string                                `json:"openapi"`
	Paths   map[string]map[string]json.RawMessage `json:"paths"`
	Comps   struct {
		Schemas map[string]struct {
			Properties map[string]json.RawMessage `json:"properties"`
			Required   []string                   `json:"required"`
		} `json:"schemas"`
		Responses map[string]docResponse `json:"responses"`
	} `json:"components"`
}

type docResponse struct {
	Ref     string `json:"$ref"`
	Content map[string]struct {
		Schema json.RawMessage `json:"schema"`
	} `json:"content"`
	Headers map[string]any `json:"headers"`
}

type docOperation struct {
	ID        string                 `json:"operationId"`
	Summary   string                 `json:"summary"`
	Text      string                 `json:"description"`
	Security  *[]any                 `json:"security"`
	Responses map[string]docResponse `json:"responses"`
}

// theDocument is the served document, parsed once.
var theDocument = sync.OnceValue(func() apiDocument {
	var d apiDocument
	if err := json.Unmarshal(openAPI, &d); err != nil {
		panic(err)
	}
	return d
})

func (d apiDocument) operation(path, method string) (op docOperation, ok bool) {
	raw, ok := d.Paths[path][strings.ToLower(method)]
	if ok {
		ok = json.Unmarshal(raw, &op) == nil
	}
	return op, ok
}

// response follows a reference.
func (d apiDocument) response(r docResponse) docResponse {
	if name, ok := strings.CutPrefix(r.Ref, "#/components/responses/"); ok {
		return d.Comps.Responses[name]
	}
	return r
}

// schemaOf compiles a schema of the document.
func schemaOf(t *testing.T, raw json.RawMessage) *jsonschema.Schema {
	t.Helper()
	c := jsonschema.NewCompiler()
	c.Draft = jsonschema.Draft2020
	c.AssertFormat = true
	if err := c.AddResource("doc:openapi.json", bytes.NewReader(openAPI)); err != nil {
		t.Fatal(err)
	}
	absolute := bytes.ReplaceAll(raw, []byte(`"#/`), []byte(`"doc:openapi.json#/`))
	if err := c.AddResource("doc:one.json", bytes.NewReader(absolute)); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("doc:one.json")
	if err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	return s
}

// documented checks an answer against the document, in whatever test it was given.
func (r *rig) documented(method, path string, p reply) {
	r.t.Helper()
	u, err := url.Parse(path)
	if err != nil {
		r.t.Fatal(err)
	}
	mux := http.NewServeMux()
	var template string
	for _, op := range (&api{Service: r.service}).table() {
		mux.Handle(op.method+" "+op.path, http.NotFoundHandler())
	}
	if _, pattern := mux.Handler(&http.Request{Method: method, URL: u, Host: "x"}); pattern != "" {
		_, template, _ = strings.Cut(pattern, " ")
	}
	if template == "" || strings.Contains(path, "//") {
		return // there is no such operation
	}
	d := theDocument()
	op, ok := d.operation(template, method)
	if !ok {
		r.t.Errorf("%s %s is not in the document", method, template)
		return
	}
	resp, ok := op.Responses[strconv.Itoa(p.status)]
	if !ok {
		r.t.Errorf("%s %s answered %d, which the document does not know: %s", method, template, p.status, p.body)
		return
	}
	resp = d.response(resp)
	have, _, _ := mime.ParseMediaType(p.header.Get("Content-Type"))
	for kind, content := range resp.Content {
		want, _, _ := mime.ParseMediaType(kind)
		if have != want {
			r.t.Errorf("%s %s answered %d with content type %q, the document says %q", method, template, p.status, have, want)
			return
		}
		schema := schemaOf(r.t, content.Schema)
		bodies := []string{p.body}
		if want == "application/x-ndjson" {
			bodies = slices.Collect(strings.Lines(p.body))
		}
		for _, b := range bodies {
			var v any
			dec := json.NewDecoder(strings.NewReader(b))
			dec.UseNumber()
			if err := dec.Decode(&v); err != nil {
				r.t.Errorf("%s %s answered %d with %q: %v", method, template, p.status, b, err)
			} else if err := schema.Validate(v); err != nil {
				r.t.Errorf("%s %s answered %d with %s: %v", method, template, p.status, b, err)
			}
		}
	}
	r.seen.Store(op.ID+" "+strconv.Itoa(p.status), true)
}

// The document has the routes of the code, their scopes, and the fields of what goes in and out, and no others.
func TestDocument(t *testing.T) {
	d := theDocument()
	if d.OpenAPI != "3.1.0" {
		t.Errorf("version %s", d.OpenAPI)
	}
	left := map[string]bool{}
	for path, ops := range d.Paths {
		for method := range ops {
			if method != "parameters" {
				left[strings.ToUpper(method)+" "+path] = true
			}
		}
	}
	for _, r := range (&api{Service: &Service{}}).table() {
		op, ok := d.operation(r.path, r.method)
		if !ok || op.ID != r.name || op.Summary == "" {
			t.Errorf("%s %s: the document has operation %q", r.method, r.path, op.ID)
		}
		delete(left, r.method+" "+r.path)
		if r.scope == "" && op.Security == nil || r.scope != "" && (op.Security != nil || !strings.HasSuffix(op.Text, "Scope: "+r.scope+".")) {
			t.Errorf("%s: the document does not say that scope %q is needed", r.name, r.scope)
		}
	}
	if len(left) > 0 {
		t.Errorf("the document has operations that the code has not: %v", slices.Sorted(maps.Keys(left)))
	}
	for name, types := range map[string][]any{"Record": {putBody{}}, "Result": {putResult{}}, "Found": {found{}}, "FoundList": {foundList{}}, "Problem": {problem{}, limits.Problem{}}} {
		schema := d.Comps.Schemas[name]
		fields, required := map[string]bool{}, map[string]bool{}
		for n, v := range types {
			for i := range reflect.TypeOf(v).NumField() {
				tag := reflect.TypeOf(v).Field(i).Tag.Get("json")
				if tag == "" {
					continue
				}
				field, options, _ := strings.Cut(tag, ",")
				fields[field] = true
				if options == "" && name != "Record" && n == 0 {
					required[field] = true
				}
			}
		}
		if got, want := slices.Sorted(maps.Keys(schema.Properties)), slices.Sorted(maps.Keys(fields)); !slices.Equal(got, want) {
			t.Errorf("%s has the fields %v in the document, %v in the code", name, got, want)
		}
		if got, want := slices.Sorted(slices.Values(schema.Required)), slices.Sorted(maps.Keys(required)); !slices.Equal(got, want) {
			t.Errorf("%s requires %v in the document, %v in the code", name, got, want)
		}
	}
}

// Every status that the document promises can happen.
func TestDocumentedStatuses(t *testing.T) {
	r := newRig(t, map[string]any{"api.timeout": "1s", "api.max_body": 2048, "api.keys_file": keysFile(t,
		entryOf("key", "acme", "", scopeRead, scopeWrite), entryOf("key2", "used-up", "", scopeRead, scopeWrite), entryOf("key3", "shredded", "", scopeRead, scopeWrite))})
	r.start()
	const base = "/v1/accounts/acme"
	call := func(method, path, body string) reply {
		return r.call(method, path, body, "Authorization", "Bearer key")
	}
	all := func() {
		call("POST", base+"/records", `{"record_id":"a","request_id":"1","fields":{"email":"a@mail.example"}}`)
		call("POST", base+"/records/batch", `{"record_id":"b","request_id":"2"}`)
		call("DELETE", base+"/records/c", "")
		call("GET", base+"/records/none", "")
		call("GET", base+"/persons/00000000-0000-8000-8000-000000000000", "")
		call("GET", base+"/fcids/00000000000000000000000000000000", "")
	}
	var one putResult
	r.Eventually("a record is applied", func() bool {
		p := call("POST", base+"/records?wait=applied", `{"record_id":"a","request_id":"1","fields":{"email":"a@mail.example"}}`)
		one = p.result(t)
		return p.status == http.StatusOK
	})
	all() // 200 and 404
	call("GET", base+"/records/a", "")
	call("GET", base+"/persons/"+one.PersonID, "")
	call("GET", base+"/fcids/"+one.FCID, "")
	call("GET", "/v1/public-key", "")
	call("GET", "/v1/openapi.json", "")
	// 400
	for _, c := range [][3]string{{"POST", base + "/records", "{"}, {"POST", base + "/records/batch?strict=perhaps", ""}, {"DELETE", base + "/records/a%00b", ""},
		{"GET", "/v1/accounts/a%2Fb/records/a", ""}, {"GET", base + "/persons/1", ""}, {"GET", base + "/fcids/1", ""}} {
		if p := call(c[0], c[1], c[2]); p.status != http.StatusBadRequest {
			t.Errorf("%v: %d %s", c, p.status, p.body)
		}
	}
	call("POST", base+"/records", `{"record_id":"`+strings.Repeat("x", 5000)+`"}`) // 413
	// 401, 403, 429
	end := time.Now().Add(time.Hour)
	for _, pack := range []string{packWrite, packLookup} {
		historytest.Send(r.World, schemas.UsageLimits, "used-up/"+pack+"/month", &event.LimitState{Account: "used-up", Pack: pack, Period: "month:2026-11",
			PeriodStart: time.Now().Add(-time.Hour), PeriodEnd: &end, Limit: 10, Used: 10, State: event.LimitLevelExceeded, UpdatedAt: time.Now()})
	}
	r.Eventually("the limit holds", func() bool {
		return r.call("GET", "/v1/accounts/used-up/records/a", "", "Authorization", "Bearer key2").status == http.StatusTooManyRequests
	})
	for _, op := range (&api{Service: r.service}).table() {
		if op.scope == "" {
			continue
		}
		path := func(account string) string {
			return strings.NewReplacer("{account}", account, "{id}", "a").Replace(op.path)
		}
		for want, p := range map[int]reply{401: r.call(op.method, path("acme"), ""), 403: r.call(op.method, path("acme"), "", "Authorization", "Bearer key2"),
			429: r.call(op.method, path("used-up"), "", "Authorization", "Bearer key2")} {
			if p.status != want {
				t.Errorf("%s: %d, want %d: %s", op.name, p.status, want, p.body)
			}
		}
	}
	// 410
	gone := func() reply {
		return r.call("POST", "/v1/accounts/shredded/records", `{"record_id":"a","fields":{"email":"a@mail.example"}}`, "Authorization", "Bearer key3")
	}
	gone()
	r.revokeKeys("shredded")
	r.Eventually("the account is shredded", func() bool { return gone().status == http.StatusGone })
	// 202 and 503
	r.store.fail(fmt.Errorf("no host answers"))
	call("POST", base+"/records?wait=applied", `{"record_id":"z"}`)
	call("DELETE", base+"/records/z?wait=applied", "")
	r.kafka.Store(true)
	for range 20 { // as many as it takes to open the breaker, which a batch needs for a 503 of its own
		all()
		if _, seen := r.seen.Load("batch 503"); seen {
			break
		}
	}
	r.kafka.Store(false)
	var missing []string
	for path, ops := range theDocument().Paths {
		for method := range ops {
			op, ok := theDocument().operation(path, method)
			for status := range op.Responses {
				if _, seen := r.seen.Load(op.ID + " " + status); ok && !seen {
					missing = append(missing, op.ID+" "+status)
				}
			}
		}
	}
	if len(missing) > 0 {
		t.Errorf("documented and never seen: %v", missing)
	}
}
