package codec_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/avro"

	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

// memory is a registry in memory, with a true compatibility check against the latest version of a subject.
type memory struct {
	mu       sync.Mutex
	byID     []string
	subjects map[string][]int
	down     bool
}

func newMemory() *memory { return &memory{subjects: map[string][]int{}} }

func (m *memory) Schema(_ context.Context, id int) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down {
		return "", codec.ErrUnavailable
	}
	if id < 1 || id > len(m.byID) {
		return "", codec.ErrUnknownSchema
	}
	return m.byID[id-1], nil
}

func (m *memory) ID(_ context.Context, subject, schema string) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, id := range m.subjects[subject] {
		if m.byID[id-1] == schema {
			return id, nil
		}
	}
	return 0, codec.ErrUnknownSchema
}

func (m *memory) Register(ctx context.Context, subject, schema string) (int, error) {
	if id, err := m.ID(ctx, subject, schema); err == nil {
		return id, nil
	}
	if err := m.Compatible(ctx, subject, schema); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.byID = append(m.byID, schema)
	m.subjects[subject] = append(m.subjects[subject], len(m.byID))
	return len(m.byID), nil
}

func (m *memory) Compatible(_ context.Context, subject, schema string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	ids := m.subjects[subject]
	if len(ids) == 0 {
		return nil
	}
	old, err := avro.Parse(m.byID[ids[len(ids)-1]-1])
	if err != nil {
		return err
	}
	next, err := avro.Parse(schema)
	if err != nil {
		return err
	}
	if err := avro.CheckCompatibility(old, next); err != nil {
		return fmt.Errorf("%w: %w", codec.ErrIncompatible, err)
	}
	return nil
}

func (m *memory) SetCompatibility(context.Context, string, string) error { return nil }

func usageEvent() event.UsageEvent {
	p := "acme"
	return event.UsageEvent{EventID: "e1", Account: "a1", Pack: "person", OccurredAt: time.UnixMicro(1_700_000_000_123_456).UTC(),
		Quantity: 3, Status: 404, Endpoint: "/v1/person", Provider: &p, AmountMicros: 12}
}

func TestRoundTrip(t *testing.T) {
	ctx := t.Context()
	c := codec.New(newMemory(), codec.Options{RegisterSchemas: true})
	s := codec.For[event.UsageEvent](c, schemas.UsageEvents)
	want := usageEvent()
	b, err := s.Encode(ctx, &want)
	if err != nil {
		t.Fatal(err)
	}
	var got event.UsageEvent
	if err := s.Decode(ctx, b, &got); err != nil {
		t.Fatal(err)
	}
	if *got.Provider != *want.Provider {
		t.Errorf("provider %q", *got.Provider)
	}
	got.Provider = want.Provider
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	text, err := c.JSON(ctx, schemas.UsageEvents, b)
	if err != nil {
		t.Fatal(err)
	}
	again, err := c.FromJSON(ctx, schemas.UsageEvents, text)
	if err != nil || !bytes.Equal(again, b) {
		t.Errorf("through JSON %s: %x, %v, want %x", text, again, err, b)
	}
}

// TestEverySchema encodes the zero value of nothing but what JSON defaults allow, so it only checks that each parses.
func TestEverySchema(t *testing.T) {
	for _, name := range schemas.Schemas() {
		text, _ := schemas.Avro(name)
		if _, err := avro.Parse(text); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEvolution(t *testing.T) {
	ctx := t.Context()
	m := newMemory()
	c := codec.New(m, codec.Options{RegisterSchemas: true})
	s := codec.For[event.UsageEvent](c, schemas.UsageEvents)
	if err := s.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	current := schemas.MustLookup(schemas.UsageEvents).AvroSchema()
	// A newer producer adds a field with a default and drops one that has a default.
	newer := strings.Replace(current, `"name": "endpoint",`, `"name": "region",`, 1)
	if newer == current {
		t.Fatal("the schema has no field endpoint any more")
	}
	id, err := m.Register(ctx, schemas.MustLookup(schemas.UsageEvents).Subject(), newer)
	if err != nil {
		t.Fatal(err)
	}
	ns := avro.MustParse(newer)
	type newEvent struct {
		EventID      string    `avro:"event_id"`
		Account      string    `avro:"account"`
		Pack         string    `avro:"pack"`
		OccurredAt   time.Time `avro:"occurred_at"`
		Quantity     int64     `avro:"quantity"`
		Status       int32     `avro:"status"`
		Region       string    `avro:"region"`
		Provider     *string   `avro:"provider"`
		AmountMicros int64     `avro:"amount_micros"`
	}
	head := binary.BigEndian.AppendUint32([]byte{0}, uint32(id))
	b, err := ns.AppendEncode(head, &newEvent{EventID: "n", Account: "a", Pack: "p", OccurredAt: time.UnixMicro(5).UTC(), Quantity: 1, Status: 200, Region: "eu"})
	if err != nil {
		t.Fatal(err)
	}
	var got event.UsageEvent
	if err := s.Decode(ctx, b, &got); err != nil {
		t.Fatalf("older consumer, newer event: %v", err)
	}
	if got.EventID != "n" || got.Endpoint != "" {
		t.Errorf("older consumer read %+v", got)
	}
	// The other way round: the newer consumer resolves our event.
	e := usageEvent()
	if b, err = s.Encode(ctx, &e); err != nil {
		t.Fatal(err)
	}
	_, w, payload, err := c.Writer(ctx, schemas.UsageEvents, b)
	if err != nil {
		t.Fatal(err)
	}
	r, err := avro.Resolve(w, ns)
	if err != nil {
		t.Fatal(err)
	}
	var ne newEvent
	if _, err := r.Decode(payload, &ne); err != nil || ne.EventID != "e1" || ne.Region != "" || ne.Quantity != 3 {
		t.Errorf("newer consumer, older event: %+v, %v", ne, err)
	}
	// A change that breaks readers is refused.
	broken := strings.Replace(current, `"name": "account",`, `"name": "tenant",`, 1)
	if _, err := m.Register(ctx, schemas.MustLookup(schemas.UsageEvents).Subject(), broken); !errors.Is(err, codec.ErrIncompatible) {
		t.Errorf("incompatible change: %v", err)
	}
}

func TestBadInput(t *testing.T) {
	ctx := t.Context()
	m := newMemory()
	c := codec.New(m, codec.Options{RegisterSchemas: true, Limits: codec.Limits{Bytes: 1000, Items: 100}})
	events := codec.For[event.UsageEvent](c, schemas.UsageEvents)
	contracts := codec.For[event.Contract](c, schemas.UsageContracts)
	e := usageEvent()
	good, err := events.Encode(ctx, &e)
	if err != nil {
		t.Fatal(err)
	}
	contract, err := contracts.Encode(ctx, &event.Contract{Account: "a", TimeZone: "UTC", StartsAt: time.UnixMicro(0)})
	if err != nil {
		t.Fatal(err)
	}
	with := func(b []byte, tail ...byte) []byte { return append(append([]byte{}, b[:5]...), tail...) }
	long := func(v int64) []byte { return binary.AppendVarint(nil, v) }
	unknown := append([]byte{0, 0, 0, 0x7f, 0xff}, good[5:]...)
	// A contract up to its packs, then a count of packs that the bytes cannot hold.
	bomb := with(contract, append([]byte{2, 'a', 2, 6, 'U', 'T', 'C', 0, 0}, long(1<<40)...)...)
	cases := []struct {
		name string
		err  error
		run  func() error
	}{
		{"empty", codec.ErrUndecodable, func() error { return events.Decode(ctx, nil, new(event.UsageEvent)) }},
		{"no magic byte", codec.ErrUndecodable, func() error { return events.Decode(ctx, []byte(`{"event_id":1}`), new(event.UsageEvent)) }},
		{"unknown id", codec.ErrUnknownSchema, func() error { return events.Decode(ctx, unknown, new(event.UsageEvent)) }},
		{"another topic's schema", codec.ErrWrongSchema, func() error { return events.Decode(ctx, contract, new(event.UsageEvent)) }},
		{"truncated", codec.ErrUndecodable, func() error { return events.Decode(ctx, good[:len(good)-3], new(event.UsageEvent)) }},
		{"bytes left over", codec.ErrUndecodable, func() error { return events.Decode(ctx, append(good[:len(good):len(good)], 1), new(event.UsageEvent)) }},
		{"huge string", codec.ErrUndecodable, func() error { return events.Decode(ctx, with(good, long(1<<50)...), new(event.UsageEvent)) }},
		{"huge array", codec.ErrTooLarge, func() error { return contracts.Decode(ctx, bomb, new(event.Contract)) }},
		{"message above the limit", codec.ErrTooLarge, func() error { return events.Decode(ctx, make([]byte, 1001), new(event.UsageEvent)) }},
		{"encoding above the limit", codec.ErrTooLarge, func() error {
			big := e
			big.Endpoint = strings.Repeat("x", 2000)
			_, err := events.Encode(ctx, &big)
			return err
		}},
		{"registry down", codec.ErrUnavailable, func() error {
			m.down = true
			defer func() { m.down = false }()
			return codec.For[event.UsageEvent](codec.New(m, codec.Options{}), schemas.UsageEvents).Decode(ctx, good, new(event.UsageEvent))
		}},
		{"producer that must not register", codec.ErrUnknownSchema, func() error {
			return codec.For[event.Resolution](codec.New(m, codec.Options{}), schemas.IdentityResolutions).Ready(ctx)
		}},
	}
	for _, tc := range cases {
		err := tc.run()
		if !errors.Is(err, tc.err) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.err)
			continue
		}
		var ce *codec.Error
		if !errors.As(err, &ce) || ce.Topic == "" {
			t.Errorf("%s: %v does not name its topic", tc.name, err)
		}
	}
	// A recursive schema, nested deeper than the limit.
	list := `{"type":"record","name":"UsageEvent","namespace":"databus","fields":[{"name":"next","type":["null","UsageEvent"]}]}`
	id, err := m.Register(ctx, "elsewhere", list)
	if err != nil {
		t.Fatal(err)
	}
	deep := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(id)), bytes.Repeat([]byte{2}, 500)...)
	if _, err := c.JSON(ctx, schemas.UsageEvents, append(deep, 0)); !errors.Is(err, codec.ErrTooLarge) {
		t.Errorf("deep nesting: %v", err)
	}
}

func TestEmbedded(t *testing.T) {
	p := codec.ForEmbedded[event.RecordPayload]("record_payload")
	want := event.RecordPayload{RecordID: "r1", Fields: map[string]string{"email": "a@b.example"}, Identifiers: []event.Identifier{{Kind: event.IdentifierKindEmail, Hash: []byte("0123456789abcdef")}}}
	b, err := p.Append(nil, &want)
	if err != nil {
		t.Fatal(err)
	}
	var got event.RecordPayload
	if err := p.Decode(b, &got); err != nil {
		t.Fatal(err)
	}
	if got.RecordID != "r1" || got.Fields["email"] != "a@b.example" || got.Identifiers[0].Kind != event.IdentifierKindEmail || string(got.Identifiers[0].Hash) != "0123456789abcdef" {
		t.Errorf("got %+v", got)
	}
	if len(p.Fingerprint()) != 8 {
		t.Errorf("fingerprint of %d bytes", len(p.Fingerprint()))
	}
}
