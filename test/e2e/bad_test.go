package e2e

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
	"databus/services/ingest/client"
)

// What cannot be decoded ends in the dead-letter topic, byte for byte and with a reason, once for each service that read
// it; what comes behind it in the same partition is processed as if it had not been there; the archive accounts for all.
func TestBadRecordsBecomeDeadLetters(t *testing.T) {
	d := startDev(t, t.TempDir(), freeAddress(t), "--archive-idle", "500ms")
	d.mustReady(t)
	c := connect(t, d.brokers, d.registry)
	registry := codec.NewRegistry(d.registry)

	// One good event of each topic, to damage, and of another topic, to send to the wrong one.
	const account = "good"
	usage := encode(t, c, schemas.UsageEvents, &event.UsageEvent{EventID: "e0", Account: account, Pack: "person", Quantity: 1, Status: 200, OccurredAt: time.Now()})
	put := func(i int) {
		t.Helper()
		r := client.Record{RequestID: fmt.Sprintf("bad/%d", i), RecordID: fmt.Sprintf("r%d", i), Fields: map[string]string{"email": fmt.Sprintf("p%d@mail.example", i)}}
		if res, err := d.api.Put(t.Context(), account, r, true); err != nil || !res.Applied {
			t.Fatalf("record %d behind bad ones: %+v, %v", i, res, err)
		}
	}
	put(0)
	record := c.read(t, schemas.DatabusRecords)[0].Value
	nestedID, err := registry.Register(t.Context(), "e2e.nested-value", `{"type":"record","name":"N","fields":[{"name":"n","type":["null","N"]}]}`)
	if err != nil {
		t.Fatal(err)
	}
	header := func(id int) []byte { return binary.BigEndian.AppendUint32([]byte{0}, uint32(id)) }
	sources := map[string][]byte{schemas.UsageEvents: usage, schemas.DatabusRecords: record}
	var sent []*kgo.Record
	for topic, good := range sources {
		other := record
		if topic == schemas.DatabusRecords {
			other = usage
		}
		for name, value := range map[string][]byte{
			"no wire format":          []byte(`{"event_id":"e1"}`),
			"too short":               {0, 0},
			"truncated":               good[:len(good)-3],
			"more behind the end":     append(bytes.Clone(good), 1),
			"string of a huge size":   binary.AppendVarint(bytes.Clone(good[:5]), 1<<40),
			"nested ten thousandfold": append(header(nestedID), bytes.Repeat([]byte{2}, 10_000)...),
			"another topic's event":   other,
		} {
			for p := range schemas.MustLookup(topic).Partitions {
				sent = append(sent, &kgo.Record{Topic: topic, Partition: p, Key: []byte(account), Value: value, Headers: []kgo.RecordHeader{{Key: "e2e-case", Value: []byte(name)}}})
			}
		}
	}
	producer := c.client(t)
	const each = 20 // good usage events behind every bad record
	partition := schemas.Partition(schemas.UsageEvents, []byte(account), schemas.MustLookup(schemas.UsageEvents).Partitions)
	for i, bad := range sent {
		batch := []*kgo.Record{bad}
		if bad.Topic == schemas.UsageEvents && bad.Partition == partition {
			for j := range each {
				batch = append(batch, &kgo.Record{Topic: bad.Topic, Partition: partition, Key: []byte(account), Value: encode(t, c, bad.Topic,
					&event.UsageEvent{EventID: fmt.Sprintf("e%d/%d", i, j), Account: account, Pack: "person", Quantity: 1, Status: 200, OccurredAt: time.Now()})})
			}
		}
		if err := producer.ProduceSync(t.Context(), batch...).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 30 {
		put(i + 1)
	}

	const cases = 7
	eventually(t, time.Minute, "counting good events", func() string { return counted(t, c, account, "person", cases*each) })
	for topic, services := range map[string][]string{
		schemas.UsageEvents:    {"usage-aggregator", "archiver"},
		schemas.DatabusRecords: {"ingest.evidence", "archiver"},
	} {
		eventually(t, time.Minute, "dead letters of "+topic, func() string {
			if n, want := len(c.read(t, topic+".dlq")), cases*8*len(services); n < want {
				return fmt.Sprintf("%d of %d", n, want)
			}
			return ""
		})
		checkDeadLetters(t, c, topic, sent, services)
		if a := c.archivedWhole(t, topic); a.dead != cases*8 {
			t.Errorf("the archive of %s counts %d dead letters, want %d", topic, a.dead, cases*8)
		}
	}
	if ready, why := d.health(t, "usage-aggregator"); !ready {
		t.Errorf("the usage-aggregator is not ready behind dead letters: %s", why)
	}
}

// checkDeadLetters looks for each bad record's letters: one of each service, with everything that the record had.
func checkDeadLetters(t *testing.T, c *cluster, topic string, sent []*kgo.Record, services []string) {
	t.Helper()
	type place struct{ service, partition, offset string }
	letters := map[place]*kgo.Record{}
	for _, r := range c.read(t, topic+".dlq") {
		at := place{headerOf(r, "databus-dead-service"), headerOf(r, "databus-dead-partition"), headerOf(r, "databus-dead-offset")}
		if letters[at] != nil {
			t.Errorf("two dead letters for %s %+v", topic, at)
		}
		letters[at] = r
	}
	reasons := map[string]string{}
	for _, bad := range sent {
		if bad.Topic != topic {
			continue
		}
		name := headerOf(bad, "e2e-case")
		for _, service := range services {
			at := place{service, fmt.Sprint(bad.Partition), fmt.Sprint(bad.Offset)}
			got := letters[at]
			delete(letters, at)
			if got == nil {
				t.Errorf("%s, %s: no dead letter at %+v", topic, name, at)
				continue
			}
			reason := headerOf(got, "databus-dead-reason")
			if !bytes.Equal(got.Value, bad.Value) || !bytes.Equal(got.Key, bad.Key) || headerOf(got, "e2e-case") != name ||
				headerOf(got, "databus-dead-topic") != topic || len(reason) < 10 {
				t.Errorf("%s, %s: the dead letter of %s is not as the record: %d bytes, reason %q", topic, name, service, len(got.Value), reason)
			}
			reasons[name] = reason
		}
	}
	for at := range letters {
		t.Errorf("%s has a dead letter of a record that is not bad: %+v", topic, at)
	}
	for name, reason := range reasons {
		t.Logf("%s, %s: %s", topic, name, reason)
	}
}

// A schema that the registry does not know yet is no reason to throw records away: their partition waits, and says so,
// until it is registered. The other partitions go on.
func TestUnknownSchemaWaits(t *testing.T) {
	d := startDev(t, t.TempDir(), freeAddress(t), "--archive-idle", "500ms")
	d.mustReady(t)
	c := connect(t, d.brokers, d.registry)
	// The next version of the event, which its producer forgot to register: a field more, at the end.
	topic := schemas.MustLookup(schemas.UsageEvents)
	newer := addField(t, topic.AvroSchema(), `{"name":"channel","type":"string","default":"","doc":"Where the call came from."}`)
	unknown := 1
	for known(t, d.registry, unknown) {
		unknown++
	}
	const waiting, each = "waits", 50
	at := func(account string) int32 { return schemas.Partition(topic.Name, []byte(account), topic.Partitions) }
	flowing := "flows"
	for at(flowing) == at(waiting) {
		flowing += "-on" // to another partition
	}
	send := func(account string, from, to int, id int) {
		t.Helper()
		var records []*kgo.Record
		for i := from; i < to; i++ {
			value := encode(t, c, topic.Name, &event.UsageEvent{EventID: fmt.Sprintf("%s/%d", account, i), Account: account, Pack: "person", Quantity: 1, Status: 200, OccurredAt: time.Now()})
			if id != 0 {
				value = append(value, "\x06web"...)
				binary.BigEndian.PutUint32(value[1:], uint32(id))
			}
			records = append(records, &kgo.Record{Topic: topic.Name, Partition: at(account), Key: []byte(account), Value: value})
		}
		if err := c.client(t).ProduceSync(t.Context(), records...).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	send(waiting, 0, each, 0)
	eventually(t, time.Minute, "counting what came before", func() string { return counted(t, c, waiting, "person", each) })
	send(waiting, each, each+1, unknown)
	send(waiting, each+1, 2*each, 0)
	send(flowing, 0, each, 0)
	eventually(t, time.Minute, "counting in the other partition", func() string { return counted(t, c, flowing, "person", each) })
	for _, service := range []string{"usage-aggregator", "archiver"} {
		eventually(t, 30*time.Second, service+" says that it waits", func() string {
			ready, why := d.health(t, service)
			if ready || !strings.Contains(why, fmt.Sprint(unknown)) {
				return fmt.Sprintf("ready %v: %s", ready, why)
			}
			return ""
		})
		_, why := d.health(t, service)
		t.Logf("%s: %s", service, why)
	}
	if missing := counted(t, c, waiting, "person", each); missing != "" {
		t.Error(missing)
	}
	if id, err := codec.NewRegistry(d.registry).Register(t.Context(), topic.Subject(), newer); err != nil || id != unknown {
		t.Fatalf("registering the schema gave id %d, %v; want %d", id, err, unknown)
	}
	eventually(t, time.Minute, "counting after the schema was registered", func() string { return counted(t, c, waiting, "person", 2*each) })
	if a := c.archivedWhole(t, topic.Name); a.dead != 0 {
		t.Errorf("%d dead letters", a.dead)
	}
	for _, service := range []string{"usage-aggregator", "archiver"} {
		eventually(t, 30*time.Second, service+" is well again", func() string {
			if ready, why := d.health(t, service); !ready {
				return why
			}
			return ""
		})
	}
	if n := len(c.read(t, topic.DeadLetter())); n != 0 {
		t.Errorf("%s has %d records", topic.DeadLetter(), n)
	}
}

func encode[T any](t testing.TB, c *cluster, topic string, v *T) []byte {
	t.Helper()
	b, err := codec.For[T](c.codec, topic).Encode(t.Context(), v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// counted says what is missing until the account's count is as wanted; one above it fails the test.
func counted(t testing.TB, c *cluster, account, pack string, want int64) string {
	t.Helper()
	var n int64
	for _, u := range values[event.UsageCount](t, c, schemas.UsageCounts) {
		if u.Account == account && u.Pack == pack && u.Period == "total" {
			n = u.Matched
		}
	}
	if n > want {
		t.Fatalf("account %s: %d counted, want %d", account, n, want)
	}
	if n < want {
		return fmt.Sprintf("account %s: %d of %d counted", account, n, want)
	}
	return ""
}

func headerOf(r *kgo.Record, name string) string {
	for _, h := range r.Headers {
		if h.Key == name {
			return string(h.Value)
		}
	}
	return ""
}

// addField puts a field behind the others of a record schema.
func addField(t *testing.T, schema, field string) string {
	t.Helper()
	var m map[string]json.RawMessage
	var fields []json.RawMessage
	if err := json.Unmarshal([]byte(schema), &m); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(m["fields"], &fields); err != nil {
		t.Fatal(err)
	}
	var err error
	if m["fields"], err = json.Marshal(append(fields, json.RawMessage(field))); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// known says whether the registry has a schema under an id.
func known(t *testing.T, registry string, id int) bool {
	t.Helper()
	res, err := http.Get(fmt.Sprintf("%s/schemas/ids/%d", registry, id))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	_, _ = io.Copy(io.Discard, res.Body)
	return res.StatusCode == http.StatusOK
}

// health asks a service's operators' port, which its log names, whether it is ready and if not why.
func (d *dev) health(t testing.TB, service string) (ready bool, why string) {
	t.Helper()
	f, err := os.Open(d.log())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	port := ""
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var line struct {
			Service string `json:"service"`
			Port    string `json:"operators_port"`
		}
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Service == service && line.Port != "" {
			port = line.Port
		}
	}
	return readyz(port)
}

// readyz asks an operators' port.
func readyz(addr string) (ready bool, why string) {
	res, err := http.Get("http://" + addr + "/readyz")
	if err != nil {
		return false, err.Error()
	}
	defer func() { _ = res.Body.Close() }()
	var answer struct {
		Ready  bool `json:"ready"`
		Checks []struct {
			Name   string `json:"name"`
			Ready  bool   `json:"ready"`
			Reason string `json:"reason"`
		} `json:"checks"`
	}
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil {
		return false, err.Error()
	}
	for _, c := range answer.Checks {
		if !c.Ready {
			why += c.Name + ": " + c.Reason + "; "
		}
	}
	return answer.Ready && res.StatusCode == http.StatusOK, why
}
