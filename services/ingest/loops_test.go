package ingest

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/graph"
	"databus/pkg/history/historytest"
	"databus/pkg/identity"
	"databus/pkg/seal"
	"databus/pkg/stream"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

// request produces a sealed request; change may spoil it.
func (r *rig) request(to *seal.PublicKey, account, id string, kind event.RequestKind, record event.CustomerRecord, change func(*event.ResolveRequest)) {
	r.t.Helper()
	plain, err := codec.ForEmbedded[event.CustomerRecord]("customer_record").Append(nil, &record)
	if err != nil {
		r.t.Fatal(err)
	}
	sealed, err := to.SealRequest(account, id, plain)
	if err != nil {
		r.t.Fatal(err)
	}
	req := event.ResolveRequest{RequestID: id, Account: account, Kind: kind, RecipientKeyID: to.ID(), Sealed: sealed}
	if change != nil {
		change(&req)
	}
	key := schemas.JoinKey(account, r.Resolver.RecordKey(account, record.RecordID))
	historytest.Send(r.World, schemas.IdentityRequests, key, &req)
}

func TestRequestLoop(t *testing.T) {
	r := newRig(t, nil)
	keys, err := seal.Load(t.Context(), r.Config.Keys.File, seal.AWSKMS{})
	if err != nil {
		t.Fatal(err)
	}
	strangers, err := seal.Generate(filepath.Join(t.TempDir(), "other.json"))
	if err != nil {
		t.Fatal(err)
	}
	to := keys.PublicKey()
	record := func(id string) event.CustomerRecord {
		return event.CustomerRecord{RecordID: id, Fields: map[string]string{"email": id + "@mail.example"}}
	}
	const n = 60
	r.start()
	for i := range n {
		if i == n/2 {
			r.stop() // whatever it has done of the first half
			r.start()
		}
		kind := event.RequestKindUpsert
		if i%10 == 9 {
			kind = event.RequestKindDelete
		}
		r.request(to, fmt.Sprint("account-", i%3), fmt.Sprint("request-", i), kind, record(fmt.Sprint("record-", i%7)), nil)
	}
	r.request(strangers.PublicKey(), "acme", "stranger", event.RequestKindUpsert, record("s"), nil)
	r.request(to, "acme", "tampered", event.RequestKindUpsert, record("t"), func(q *event.ResolveRequest) { q.Sealed[len(q.Sealed)-1] ^= 1 })
	r.request(to, "acme", "moved", event.RequestKindUpsert, record("m"), func(q *event.ResolveRequest) { q.Account = "other" })
	wide := record("w")
	for i := range identity.MaxFields + 1 {
		wide.Fields[fmt.Sprint("field-", i)] = "secret"
	}
	r.request(to, "acme", "wide", event.RequestKindUpsert, wide, nil)
	r.groupAtEnd(requestsGroup, schemas.IdentityRequests)
	r.groupAtEnd("ingest.applier.v1", schemas.DatabusRecords)
	if bad := r.unready(); len(bad) > 0 {
		t.Errorf("unready: %v", bad)
	}
	r.stop()

	written := map[string]string{}
	for _, rec := range r.records() {
		if written[rec.RequestID] != "" {
			t.Errorf("request %s was written twice", rec.RequestID)
		}
		written[rec.RequestID] = rec.RecordKey
	}
	answers := map[string]event.Resolution{}
	for _, a := range events[event.Resolution](r, schemas.IdentityResolutions) {
		if _, twice := answers[a.RequestID]; twice {
			t.Errorf("request %s was answered twice", a.RequestID)
		}
		answers[a.RequestID] = a
	}
	if len(written) != n || len(answers) != n+1 {
		t.Errorf("%d records, %d answers to %d requests and a wrong one", len(written), len(answers), n)
	}
	for i := range n {
		a := answers[fmt.Sprint("request-", i)]
		deleted := i%10 == 9
		if a.RecordKey == "" || a.RecordKey != written[a.RequestID] || a.GraphVersion != graph.GenesisVersion || a.Problem != "" ||
			(a.Outcome == event.OutcomeDeleted) != deleted || (a.Fcid == nil) != deleted || (a.PersonID == nil) != deleted {
			t.Errorf("answer %+v, record %s", a, written[a.RequestID])
		}
	}
	if a := answers["wide"]; a.Outcome != event.OutcomeRejected || !strings.Contains(a.Problem, "fields") || strings.Contains(a.Problem, "secret") || a.Fcid != nil {
		t.Errorf("the wide record: %+v", a)
	}
	reasons := map[string]string{}
	serde := codec.For[event.ResolveRequest](r.Codec, schemas.IdentityRequests)
	for _, rec := range r.read(schemas.MustLookup(schemas.IdentityRequests).DeadLetter()) {
		var q event.ResolveRequest
		if err := serde.Decode(t.Context(), rec.Value, &q); err != nil {
			t.Fatal(err)
		}
		for _, h := range rec.Headers {
			if h.Key == stream.HeaderReason {
				reasons[q.RequestID] += string(h.Value)
			}
		}
	}
	if len(reasons) != 3 || !strings.Contains(reasons["stranger"], "another public key") || !strings.Contains(reasons["tampered"], "does not open") || !strings.Contains(reasons["moved"], "does not open") {
		t.Errorf("dead letters: %v", reasons)
	}
	r.modelled("v1", "model")
}

// Without a database the loop waits: it neither answers nor fails, however long that takes.
func TestRequestsWaitForADatabase(t *testing.T) {
	r := newRig(t, nil)
	r.Announce(event.DatabaseVersion{Version: "v1", Keyspace: "v1", GraphVersion: graph.GenesisVersion, ApplierGroup: "ingest.applier.v1", State: event.DatabaseStateRetired})
	keys, err := seal.Load(t.Context(), r.Config.Keys.File, seal.AWSKMS{})
	if err != nil {
		t.Fatal(err)
	}
	r.request(keys.PublicKey(), "acme", "early", event.RequestKindUpsert, event.CustomerRecord{RecordID: "a"}, nil)
	r.launch()
	r.Eventually("the loop waits", func() bool {
		bad := r.unready()
		return strings.Contains(bad[requestsGroup], "databus init") && strings.Contains(bad["database"], "databus init")
	})
	if p := r.call("POST", "/v1/accounts/acme/records", `{"record_id":"b"}`); p.status != 503 || !strings.Contains(p.problem(t).Detail, "no database version") {
		t.Errorf("the API: %d %s", p.status, p.body)
	}
	r.Announce(event.DatabaseVersion{Version: "v1", Keyspace: "v1", GraphVersion: graph.GenesisVersion, ApplierGroup: "ingest.applier.v1", State: event.DatabaseStateServing})
	r.Eventually("it is answered", func() bool { return len(events[event.Resolution](r, schemas.IdentityResolutions)) == 1 })
	r.Eventually("ready", func() bool { return len(r.unready()) == 0 })
}

func TestEvidenceLoop(t *testing.T) {
	r := newRig(t, nil)
	r.start()
	// A record that nobody can open is skipped, and leaves no trace: its request sent again is no repeat.
	spoiled := r.seal(identity.Request{Account: "acme", RequestID: "1", Kind: event.RequestKindUpsert, Record: event.CustomerRecord{RecordID: "a", Fields: map[string]string{"email": "a@mail.example"}}})
	good := slices.Clone(spoiled.Sealed)
	spoiled.Sealed[20] ^= 1
	key := schemas.JoinKey(spoiled.Account, spoiled.RecordKey)
	historytest.Send(r.World, schemas.DatabusRecords, key, spoiled)
	spoiled.Sealed = good
	historytest.Send(r.World, schemas.DatabusRecords, key, spoiled)
	// Bytes that are no record are one dead letter, although two appliers and the loop read them.
	if err := r.Client.ProduceSync(t.Context(), &kgo.Record{Topic: schemas.DatabusRecords, Key: []byte(key), Value: []byte{0, 0, 0, 0, 1, 255}}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	r.put("acme", "2", "a", "b@mail.example")
	r.put("acme", "1", "a", "c@mail.example") // a repeat
	if p := r.call("DELETE", "/v1/accounts/acme/records/a?wait=applied", "", "Idempotency-Key", "3"); p.status != 200 {
		t.Fatalf("%d: %s", p.status, p.body)
	}
	r.groupAtEnd(evidenceGroup, schemas.DatabusRecords)
	got := events[event.Observation](r, schemas.IdentityObservations)
	var kinds []string
	for _, o := range got {
		if o.EvidenceID != key || o.Source != "acme" || !o.FirstSeen.Equal(got[0].FirstSeen) {
			t.Errorf("observation %+v", o)
		}
		kinds = append(kinds, fmt.Sprint(o.Relation, " ", len(o.Identifiers)))
	}
	if want := []string{"TOGETHER 2", "TOGETHER 2", "WITHDRAWN 0"}; !slices.Equal(kinds, want) {
		t.Fatalf("observations %v, want %v", kinds, want)
	}
	if string(got[0].Identifiers[0].Hash) == string(got[1].Identifiers[0].Hash) {
		t.Error("the newer version has the older one's identifiers")
	}
	if dead := r.read(schemas.MustLookup(schemas.DatabusRecords).DeadLetter()); len(dead) != 1 || string(dead[0].Value) != "\x00\x00\x00\x00\x01\xff" {
		t.Errorf("%d dead letters", len(dead))
	}

	// Many records and a restart in the middle: the newest evidence of each record is that of the model's row.
	r.Write(150)
	r.stop()
	r.Write(150)
	r.start()
	r.groupAtEnd(evidenceGroup, schemas.DatabusRecords)
	r.groupAtEnd("ingest.applier.v1", schemas.DatabusRecords)
	r.stop()
	newest, count := map[string]event.Observation{}, 0
	for _, o := range events[event.Observation](r, schemas.IdentityObservations) {
		newest[o.EvidenceID] = o
		count++
	}
	accepted, first := r.accepted()
	if count != 3+accepted.count {
		t.Errorf("%d observations, want %d", count, 3+accepted.count)
	}
	if !slices.Equal(slices.Sorted(maps.Keys(newest)), slices.Sorted(maps.Keys(first))) {
		t.Errorf("evidence of %d records, want %d", len(newest), len(first))
	}
	for id, o := range newest {
		if o.Relation != accepted.relation[id] || !o.FirstSeen.Truncate(time.Millisecond).Equal(first[id]) {
			t.Errorf("%s: %s, first seen %v; want %s, %v", id, o.Relation, o.FirstSeen, accepted.relation[id], first[id])
		}
	}
}

// seal makes a record as ingest does.
func (r *rig) seal(q identity.Request) *event.DatabusRecord {
	r.t.Helper()
	res, err := r.Resolver.Resolve(r.t.Context(), graph.Genesis(), &q)
	if err != nil {
		r.t.Fatal(err)
	}
	return &res.Record
}

// modelEvidence is what a model says about evidence, the first record of TestEvidenceLoop aside in count.
type modelEvidence struct {
	count    int
	relation map[string]event.Relation
}

// accepted folds the log with a plain set of ids: no record of the tests has more than 16 versions between repeats.
func (r *rig) accepted() (modelEvidence, map[string]time.Time) {
	r.t.Helper()
	m := modelEvidence{relation: map[string]event.Relation{}}
	first := map[string]time.Time{}
	recent := map[string][]string{}
	serde := codec.For[event.DatabusRecord](r.Codec, schemas.DatabusRecords)
	r.Log(r.Ends(), func(rec *kgo.Record) {
		var v event.DatabusRecord
		if serde.Decode(r.t.Context(), rec.Value, &v) != nil {
			return
		}
		id := v.Account + "/" + v.RecordKey
		if v.Kind == event.RecordKindUpsert {
			if _, err := r.Resolver.Payload(r.t.Context(), &v); err != nil {
				return
			}
		}
		if slices.Contains(recent[id], v.RequestID) {
			return
		}
		recent[id] = append(recent[id], v.RequestID)
		recent[id] = recent[id][max(0, len(recent[id])-identity.RecentVersions):]
		if first[id].IsZero() {
			first[id] = rec.Timestamp
		}
		if v.Account != "acme" {
			m.count++
		}
		m.relation[id] = event.RelationTogether
		if v.Kind == event.RecordKindDelete {
			m.relation[id] = event.RelationWithdrawn
		}
	})
	return m, first
}
