package identity_test

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"databus/pkg/graph"
	"databus/pkg/identity"
	"databus/pkg/internal/kafkatest"
	"databus/pkg/seal"
	"databus/schemas"
	"databus/schemas/event"
)

func TestIDs(t *testing.T) {
	key, other := [32]byte{1}, [32]byte{2}
	if k := identity.RecordKey(key, "r"); len(k) != 32 || k != identity.RecordKey(key, "r") || k == identity.RecordKey(other, "r") || k == identity.RecordKey(key, "s") {
		t.Errorf("record key %q", k)
	}
	fcid := graph.FCID{1, 2, 3}
	id := identity.PersonID(key, fcid)
	if id.Version() != 8 || id.Variant() != uuid.RFC4122 || id != identity.PersonID(key, fcid) || id == identity.PersonID(other, fcid) || id == identity.PersonID(key, graph.FCID{1, 2, 4}) {
		t.Errorf("PersonID %s", id)
	}
	last := int64(0)
	for _, c := range []struct {
		epoch  int32
		offset int64
	}{{0, 0}, {0, 1}, {0, identity.MaxOffset}, {1, 0}, {1, 5}, {identity.MaxEpoch, identity.MaxOffset}} {
		v, err := identity.Version(c.epoch, c.offset)
		if err != nil || v <= last {
			t.Errorf("epoch %d, offset %d: %d after %d, %v", c.epoch, c.offset, v, last, err)
		}
		if e, o := identity.Offset(v); e != c.epoch || o != c.offset {
			t.Errorf("version %d comes from %d, %d", v, e, o)
		}
		last = v
	}
	for _, c := range []struct {
		epoch  int32
		offset int64
	}{{-1, 0}, {0, -1}, {0, identity.MaxOffset + 1}, {identity.MaxEpoch + 1, 0}, {0, math.MaxInt64}} {
		if v, err := identity.Version(c.epoch, c.offset); err == nil {
			t.Errorf("epoch %d, offset %d: %d", c.epoch, c.offset, v)
		}
	}
}

func TestRecent(t *testing.T) {
	var r identity.Recent
	at := time.UnixMilli(1_000_000)
	accept := func(id string, at time.Time, want bool) {
		t.Helper()
		next, repeat := r.Accept(id, at)
		if repeat != want {
			t.Fatalf("%s at %v: repeat %v", id, at, repeat)
		}
		if repeat && len(next) != len(r) {
			t.Fatal("a repeat changes the list")
		}
		r = next
	}
	for i := range 16 {
		accept(fmt.Sprint(i), at.Add(time.Duration(i)*time.Minute), false)
	}
	accept("0", at.Add(16*time.Minute), true)   // the oldest of 16
	accept("16", at.Add(16*time.Minute), false) // pushes it out
	accept("0", at.Add(16*time.Minute), false)
	accept("5", at.Add(5*time.Minute+identity.RecentWindow), true) // just inside the window
	accept("5", at.Add(5*time.Minute+identity.RecentWindow+time.Millisecond), false)
	if len(r) != 13 { // 6 to 16, then 0 and 5
		t.Errorf("%d ids, want 13", len(r))
	}
	back, err := identity.ParseRecent(r.Bytes())
	if err != nil || fmt.Sprint(back) != fmt.Sprint(r) {
		t.Errorf("%v, %v", back, err)
	}
	if identity.Recent(nil).Bytes() != nil {
		t.Error("no ids are some bytes")
	}
	for _, bad := range [][]byte{make([]byte, 23), make([]byte, 17*24)} {
		if _, err := identity.ParseRecent(bad); err == nil {
			t.Errorf("%d bytes were taken", len(bad))
		}
	}
}

// bench is a resolver on a broker in this process.
func bench(t testing.TB) (*identity.Resolver, *seal.Keyring, *kafkatest.Bed) {
	t.Helper()
	bed := kafkatest.New(t)
	keys, err := seal.Generate(filepath.Join(t.TempDir(), "keys.json"))
	if err != nil {
		t.Fatal(err)
	}
	ring, err := seal.OpenKeyring(t.Context(), seal.Options{Kafka: bed.Opts, Codec: bed.Codec, Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ring.Close)
	r, err := identity.NewResolver(keys, ring, "AU")
	if err != nil {
		t.Fatal(err)
	}
	return r, ring, bed
}

func upsert(id string, fields map[string]string) *identity.Request {
	return &identity.Request{Account: "acme", RequestID: "q-" + id, Kind: event.RequestKindUpsert, Record: event.CustomerRecord{RecordID: id, Fields: fields}}
}

func TestResolveAndRowAgree(t *testing.T) {
	r, ring, _ := bench(t)
	fields := map[string]string{"email": "canary@example.org", "phone": "+61412345678", "note": "canary text", "maid": "nonsense"}
	resolve := func(g *graph.Graph, q *identity.Request) (*identity.Resolution, *identity.Input) {
		t.Helper()
		res, err := r.Resolve(t.Context(), g, q)
		if err != nil {
			t.Fatal(err)
		}
		return res, &identity.Input{Record: &res.Record, Offset: 41, AppendTime: time.UnixMilli(1000)}
	}
	res, in := resolve(graph.Genesis(), upsert("canary-1", fields))
	if len(res.Problems) != 1 || res.Problems[0].Field != "maid" {
		t.Errorf("problems %v", res.Problems)
	}
	if res.Key() != "acme/"+r.RecordKey("acme", "canary-1") || strings.Contains(string(res.Record.Sealed)+res.Key(), "canary") {
		t.Errorf("key %s, or plaintext in the record", res.Key())
	}
	row, err := r.Row(t.Context(), graph.Genesis(), in)
	if err != nil {
		t.Fatal(err)
	}
	if row.FCID != res.FCID || row.PersonID != res.PersonID || row.Version != 42 || row.Deleted || !bytes.Equal(row.Sealed, res.Record.Sealed) {
		t.Errorf("row %+v", row)
	}
	payload, err := r.Payload(t.Context(), row.Record())
	if err != nil || payload.RecordID != "canary-1" || fmt.Sprint(payload.Fields) != fmt.Sprint(fields) || len(payload.Identifiers) != 4 {
		t.Errorf("payload %+v, %v", payload, err)
	}

	// Evidence of one record moves another to its person, under the next graph.
	_, second := resolve(graph.Genesis(), upsert("canary-2", map[string]string{"phone": "0412 345 678"}))
	before, err := r.Row(t.Context(), graph.Genesis(), second)
	if err != nil {
		t.Fatal(err)
	}
	o, err := r.Observation(t.Context(), in, in.AppendTime)
	if err != nil || o.Relation != event.RelationTogether || len(o.Identifiers) != 3 || o.EvidenceID != res.Key() {
		t.Fatalf("observation %+v, %v", o, err)
	}
	e, err := graph.FromObservation(o)
	if err != nil {
		t.Fatal(err)
	}
	g2 := graph.Build(func(yield func(graph.Evidence) bool) { yield(e) }).Graph
	after, err := r.Row(t.Context(), g2, second)
	if err != nil {
		t.Fatal(err)
	}
	if before.FCID == row.FCID || after.FCID != row.FCID || after.PersonID != row.PersonID || !bytes.Equal(after.Sealed, before.Sealed) {
		t.Errorf("the second record is %s before and %s after, the first %s", before.FCID, after.FCID, row.FCID)
	}

	// A delete has neither payload nor person, and withdraws the evidence.
	gone := upsert("canary-1", nil)
	gone.Kind = event.RequestKindDelete
	res, in = resolve(g2, gone)
	if res.FCID+res.PersonID+res.Record.KeyID != "" || len(res.Record.Sealed) != 0 {
		t.Errorf("a delete: %+v", res)
	}
	if row, err := r.Row(t.Context(), g2, in); err != nil || !row.Deleted || row.FCID != "" {
		t.Errorf("a delete's row: %+v, %v", row, err)
	}
	if o, err := r.Observation(t.Context(), in, in.AppendTime); err != nil || o.Relation != event.RelationWithdrawn || len(o.Identifiers) != 0 {
		t.Errorf("a delete's evidence: %+v, %v", o, err)
	}

	// What cannot be opened, and whether that is for good.
	_, in = resolve(g2, upsert("canary-3", fields))
	for name, c := range map[string]struct {
		change func(*event.DatabusRecord)
		dead   bool
	}{
		"changed bytes":    {func(rec *event.DatabusRecord) { rec.Sealed = bytes.Clone(rec.Sealed); rec.Sealed[20] ^= 1 }, true},
		"another record":   {func(rec *event.DatabusRecord) { rec.RecordKey = strings.Repeat("0", 32) }, true},
		"another account":  {func(rec *event.DatabusRecord) { rec.Account = "other" }, true},
		"an unknown key":   {func(rec *event.DatabusRecord) { rec.KeyID = "acme/0000000000000000" }, true},
		"no payload":       {func(rec *event.DatabusRecord) { rec.Sealed = nil }, true},
		"no request id":    {func(rec *event.DatabusRecord) { rec.RequestID = "" }, true},
		"an unknown kind":  {func(rec *event.DatabusRecord) { rec.Kind = "OTHER" }, true},
		"a newer payload":  {func(rec *event.DatabusRecord) { rec.PayloadSchema = []byte("87654321") }, false},
		"nothing of these": {func(*event.DatabusRecord) {}, false},
	} {
		rec := *in.Record
		c.change(&rec)
		_, err := r.Row(t.Context(), g2, &identity.Input{Record: &rec, Offset: 1})
		if (err == nil) != (name == "nothing of these") || identity.IsDead(err) != c.dead {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: plaintext in the error", name)
		}
	}
	if _, err := ring.Shred(t.Context(), seal.Shred{Account: "acme"}); err != nil {
		t.Fatal(err)
	}
	left, err := r.Row(t.Context(), g2, in)
	if err != nil || !left.Shredded || !left.Deleted || left.Version == 0 || left.FCID+left.PersonID+left.KeyID != "" || left.Sealed != nil {
		t.Errorf("a revoked key: %+v, %v", left, err)
	}
	if _, err := r.Payload(t.Context(), in.Record); !errors.Is(err, seal.ErrRevoked) || !identity.IsDead(err) {
		t.Errorf("a revoked key opens: %v", err)
	}
	if o, err := r.Observation(t.Context(), in, time.Now()); err != nil || o.Relation != event.RelationWithdrawn || len(o.Identifiers) != 0 {
		t.Errorf("evidence of a shredded record: %+v, %v", o, err)
	}
	if _, err := r.Resolve(t.Context(), g2, upsert("canary-4", fields)); !errors.Is(err, seal.ErrRevoked) {
		t.Errorf("sealing for a shredded account: %v", err)
	}
}

func TestRequestsThatAreNotValid(t *testing.T) {
	r, _, _ := bench(t)
	many := map[string]string{}
	for i := range identity.MaxFields + 1 {
		many[fmt.Sprint("f", i)] = "canary"
	}
	for name, c := range map[string]struct {
		field  string
		change func(*identity.Request)
	}{
		"account":             {"account", func(q *identity.Request) { q.Account = "a/b" }},
		"no request id":       {"request_id", func(q *identity.Request) { q.RequestID = "" }},
		"long request id":     {"request_id", func(q *identity.Request) { q.RequestID = strings.Repeat("canary", 30) }},
		"no record id":        {"record_id", func(q *identity.Request) { q.Record.RecordID = "" }},
		"control character":   {"record_id", func(q *identity.Request) { q.Record.RecordID = "canary\x00" }},
		"record id not UTF-8": {"record_id", func(q *identity.Request) { q.Record.RecordID = "canary\xff" }},
		"kind":                {"kind", func(q *identity.Request) { q.Kind = "canary" }},
		"many fields":         {"fields", func(q *identity.Request) { q.Record.Fields = many }},
		"field name":          {"fields", func(q *identity.Request) { q.Record.Fields = map[string]string{"can ary": "x"} }},
		"field not UTF-8":     {"email", func(q *identity.Request) { q.Record.Fields = map[string]string{"email": "canary\xff"} }},
		"5 MB":                {"fields", func(q *identity.Request) { q.Record.Fields = map[string]string{"x": strings.Repeat("canary", 1<<20)} }},
	} {
		q := upsert("1", map[string]string{"email": "canary@example.org"})
		c.change(q)
		_, err := r.Resolve(t.Context(), graph.Genesis(), q)
		var invalid *identity.Invalid
		if !errors.As(err, &invalid) || invalid.Field != c.field || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDatabasesAndGraphs(t *testing.T) {
	_, _, bed := bench(t)
	bucket := testBucket()
	databases, err := identity.FollowDatabases(t.Context(), bed.Opts, bed.Codec, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer databases.Close()
	graphs, err := identity.FollowGraphs(t.Context(), bed.Opts, bed.Codec, graph.NewCache(bucket, t.TempDir(), nil), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer graphs.Close()
	put := func(version string, state event.DatabaseState) {
		t.Helper()
		kafkatest.Produce(t, bed, schemas.DatabusDatabases, version, &event.DatabaseVersion{Version: version, Keyspace: version, GraphVersion: "g1", State: state, Frontier: []event.FrontierPosition{}, ChangedAt: time.Now()})
		if err := databases.CaughtUp(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	serving := func(want string) {
		t.Helper()
		if v, ok := databases.Serving(); v.Version != want || ok != (want != "") {
			t.Errorf("%q serves, want %q", v.Version, want)
		}
	}
	serving("")
	changed := databases.Changed()
	put("d1", event.DatabaseStateServing)
	select {
	case <-changed:
	case <-t.Context().Done():
	}
	serving("d1")
	put("d2", event.DatabaseStateBuilding)
	serving("d1")
	put("d2", event.DatabaseStateServing) // the cut-over's first event
	serving("d2")
	put("d1", event.DatabaseStateStandby)
	serving("d2")
	if n := len(databases.Followed()); n != 2 {
		t.Errorf("%d versions are followed", n)
	}
	put("d1", event.DatabaseStateRetired)
	if v, ok := databases.Get("d1"); !ok || v.State != event.DatabaseStateRetired || len(databases.List()) != 2 || len(databases.Followed()) != 1 {
		t.Errorf("d1: %+v", v)
	}
	bed.ProduceBytes(t, schemas.DatabusDatabases, "d1", nil)
	if err := databases.CaughtUp(t.Context()); err != nil || len(databases.List()) != 1 {
		t.Errorf("after the tombstone: %v, %v", databases.List(), err)
	}

	if _, err := graphs.Graph(t.Context(), "g1"); !errors.Is(err, identity.ErrUnknownGraph) {
		t.Errorf("an unknown graph: %v", err)
	}
	sink := graph.Sink{Kafka: bed.Opts, Codec: bed.Codec, Bucket: bucket}
	if _, err := graph.PublishGenesis(t.Context(), sink); err != nil {
		t.Fatal(err)
	}
	one, err := graphs.Graph(t.Context(), "g1") // announced a moment ago: it is waited for
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		built := graph.Build(func(yield func(graph.Evidence) bool) {
			yield(graph.Evidence{ID: "x", Relation: event.RelationTogether, Weight: 1, Identifiers: []graph.Identifier{{Kind: graph.Email, Hash: [16]byte{byte(i)}}}})
		})
		version := fmt.Sprint("h", i)
		if _, err := graph.Publish(t.Context(), sink, version, built, nil); err != nil {
			t.Fatal(err)
		}
		g, err := graphs.Graph(t.Context(), version)
		if err != nil || g.Stats().Identifiers != 1 {
			t.Fatalf("%s: %v", version, err)
		}
		if again, _ := graphs.Graph(t.Context(), version); again != g {
			t.Error("a graph is loaded twice")
		}
	}
	if g, err := graphs.Graph(t.Context(), "g1"); err != nil || g.Stats() != one.Stats() {
		t.Errorf("after eviction: %v", err)
	}
	if len(graphs.List()) != 6 || graphs.List()[0].Version != "g1" {
		t.Errorf("%d graphs", len(graphs.List()))
	}
}
