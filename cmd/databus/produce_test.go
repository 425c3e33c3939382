package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"databus/schemas"
)

const usageEvent = `{"event_id":"e1","account":"acme","pack":"person","occurred_at":1700000000000000,"provider":"p & <q>"}`

func TestRoundTrip(t *testing.T) {
	s := readyStack(t, schemas.UsageEvents)
	out := s.ok(t, "produce", schemas.UsageEvents, usageEvent, "--header", "a=1", "-H", "b=x=y,z")
	partition := schemas.Partition(schemas.UsageEvents, []byte("acme"), 8)
	if want := schemas.UsageEvents + "/" + string(rune('0'+partition)) + "@0\n"; out != want {
		t.Fatalf("printed %q, want %q", out, want)
	}
	lines := s.consume(t, schemas.UsageEvents)
	if len(lines) != 1 {
		t.Fatalf("%d lines", len(lines))
	}
	l := lines[0]
	if *l.Key != "acme" || l.Partition != partition || l.Offset != 0 || l.SchemaID == 0 || l.Timestamp == "" {
		t.Errorf("line %+v", l)
	}
	if len(l.Headers) != 2 || l.Headers[0].Key != "a" || *l.Headers[0].Value != "1" || *l.Headers[1].Value != "x=y,z" {
		t.Errorf("headers %+v", l.Headers)
	}
	want := `{"event_id":"e1","account":"acme","pack":"person","occurred_at":1700000000000000,"quantity":1,"status":200,"endpoint":"","provider":"p & <q>","amount_micros":0}`
	if string(l.Value) != want {
		t.Errorf("value %s, want %s", l.Value, want)
	}
	// What was read can be produced again.
	s.ok(t, "produce", schemas.UsageEvents, string(l.Value))
	if text := s.ok(t, "consume", schemas.UsageEvents, "--from", "1", "--format", "text"); !strings.Contains(text, "@1  ") || !strings.Contains(text, `"provider":"p & <q>"`) {
		t.Errorf("text: %s", text)
	}
}

func TestKeys(t *testing.T) {
	s := readyStack(t, schemas.UsageEvents, schemas.RebuildRequests, schemas.UsageContracts, schemas.KeysEvents, schemas.IdentityGraphs)
	key := func(topic string) string {
		lines := s.consume(t, topic)
		return *lines[len(lines)-1].Key
	}
	event := `{"key_id":"k1","account":"acme","kind":"CREATED","wrapped_key":"","kek_id":"","holder":"","at":1}`
	s.run(t, "produce", schemas.KeysEvents, event).fails(t, 1, `the key of keys.events is "account/key id"`, "--key")
	s.ok(t, "produce", schemas.KeysEvents, event, "--key", "acme/k1")
	if k := key(schemas.KeysEvents); k != "acme/k1" {
		t.Errorf("key %q", k)
	}
	s.ok(t, "produce", schemas.RebuildRequests, `{"job_id":"j1"}`)
	if k := key(schemas.RebuildRequests); k != "j1" {
		t.Errorf("key %q", k)
	}
	s.ok(t, "produce", schemas.RebuildRequests, `{"job_id":"j1","requested_by":"me"}`, "--key-field", "requested_by")
	if out := s.ok(t, "consume", schemas.RebuildRequests); !strings.Contains(out, `"key":"me"`) {
		t.Errorf("no key from --key-field: %s", out)
	}
	for name, want := range map[string]string{
		schemas.UsageEvents: "account", schemas.RebuildRequests: "job_id", schemas.IdentityGraphs: "version", schemas.DatabusDatabases: "version",
		schemas.IdentityResolutions: "request_id", schemas.IdentityObservations: "evidence_id", schemas.UsageCounts: "", schemas.IdentityChanges: "",
	} {
		if got := keyField(schemas.MustLookup(name)); got != want {
			t.Errorf("%s: key from field %q, want %q", name, got, want)
		}
	}
	s.run(t, "produce", schemas.UsageEvents, usageEvent, "--key-field", "endpoint").fails(t, 1, "line 1", "field endpoint")
	s.run(t, "produce", schemas.UsageEvents, usageEvent, "--key-field", "account", "--key", "x").fails(t, 1, "exclude each other")
	s.run(t, "produce", schemas.UsageEvents, usageEvent, "--header", "x").fails(t, 1, "NAME=VALUE")
}

func TestTombstone(t *testing.T) {
	s := readyStack(t, schemas.UsageEvents, schemas.UsageContracts)
	s.run(t, "produce", schemas.UsageContracts, "--null").fails(t, 1, "--key")
	s.run(t, "produce", schemas.UsageEvents, "--null", "--key", "acme").fails(t, 1, "not compacted")
	s.run(t, "produce", schemas.UsageContracts, "{}", "--null", "--key", "acme").fails(t, 1, "name one of them")
	s.ok(t, "produce", schemas.UsageContracts, "--null", "--key", "acme")
	out := s.ok(t, "consume", schemas.UsageContracts)
	if !strings.Contains(out, `"key":"acme","value":null}`) {
		t.Errorf("printed %s", out)
	}
}

func TestBadInput(t *testing.T) {
	s := readyStack(t, schemas.UsageEvents, schemas.UsageContracts)
	for name, c := range map[string]struct{ text, want string }{
		"no JSON":             {`{"event_id":`, "line 2"},
		"missing field":       {`{"event_id":"e"}`, `"account"`},
		"wrong type":          {strings.Replace(usageEvent, `"acme"`, `7`, 1), "account"},
		"unknown field":       {strings.Replace(usageEvent, `"provider"`, `"provder"`, 1), "field provder is not in schema UsageEvent"},
		"two values":          {usageEvent + usageEvent, "line 2"},
		"not a whole number":  {strings.Replace(usageEvent, `"pack"`, `"quantity":1.5,"pack"`, 1), "quantity"},
		"key not to be found": {strings.Replace(usageEvent, `"acme"`, `""`, 1), "field account"},
	} {
		before := len(s.consume(t, schemas.UsageEvents))
		r := s.in(t, usageEvent+"\n"+c.text+"\n"+usageEvent+"\n", "produce", schemas.UsageEvents)
		r.fails(t, 1, "line 2", c.want)
		if strings.Count(r.out, "\n") != 1 {
			t.Errorf("%s: printed %q", name, r.out)
		}
		if n := len(s.consume(t, schemas.UsageEvents)) - before; n != 1 {
			t.Errorf("%s: %d events were produced, want the one before the bad line", name, n)
		}
	}
	s.run(t, "produce", schemas.UsageContracts, `{"account":"a","version":1,"starts_at":1,"packs":[{"pack":"p","period":"TOTAL","limit":1},{"pack":"p","period":"TOTAL","limit":1,"thresholds":[{"kind":"PERCENT","value":1,"valu":2}]}]}`).
		fails(t, 1, "packs[1].thresholds[0].valu")
	s.run(t, "produce", "usage.nothing", "{}").fails(t, 1, "not in the catalogue", "databus topics list")
	s.run(t, "produce", "usage.events.dlq", "{}").fails(t, 1, "original bytes")
	s.run(t, "produce", schemas.UsageCounts, "--key", "k", "{}").fails(t, 1, "no topic usage.counts", "databus topics apply usage.counts")
	s.create(t, schemas.UsageThresholds, 3)
	s.run(t, "produce", schemas.UsageThresholds, "{}").fails(t, 1, "has 3 partitions, the catalogue says 8")
}

func TestUnregisteredSchema(t *testing.T) {
	s := start(t)
	s.ok(t, "topics", "apply", schemas.UsageEvents)
	s.run(t, "produce", schemas.UsageEvents, usageEvent).fails(t, 1, "unknown schema", "databus schemas register")
}

func TestProduceFile(t *testing.T) {
	s := readyStack(t, schemas.UsageEvents)
	file := filepath.Join(t.TempDir(), "events.ndjson")
	var b strings.Builder
	const n = 5000 // more than the client buffers
	for range n {
		b.WriteString(usageEvent + "\n\n")
	}
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	out := s.ok(t, "produce", schemas.UsageEvents, "--file", file)
	if got := strings.Count(out, "\n"); got != n {
		t.Errorf("%d lines printed, want %d", got, n)
	}
	if !strings.HasSuffix(out, "@4999\n") {
		t.Errorf("not in order: ends in %q", out[len(out)-30:])
	}
	if got := len(s.consume(t, schemas.UsageEvents)); got != n {
		t.Errorf("%d events, want %d", got, n)
	}
	s.run(t, "produce", schemas.UsageEvents, "--file", file+"x").fails(t, 1, "no such file")
}
