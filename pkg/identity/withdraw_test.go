package identity_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/blob"
	"databus/pkg/graph"
	"databus/pkg/identity"
	"databus/pkg/internal/kafkatest"
	"databus/pkg/seal"
	"databus/schemas"
	"databus/schemas/event"
)

// Evidence of a shredded account, and of a shredded record, is in no graph that is built afterwards, whether it was withdrawn
// or is still on its way; its withdrawal removes the hashes from the topic.
func TestEvidenceOfTheShreddedIsWithdrawn(t *testing.T) {
	r, ring, bed := bench(t)
	if _, err := ring.Rotate(t.Context(), "acme", seal.RecordScope); err != nil {
		t.Fatal(err)
	}
	var keys []string
	observe := func(account, record, mail string) {
		t.Helper()
		q := upsert(record, map[string]string{"email": mail})
		q.Account = account
		res, err := r.Resolve(t.Context(), graph.Genesis(), q)
		if err != nil {
			t.Fatal(err)
		}
		o, err := r.Observation(t.Context(), &identity.Input{Record: &res.Record, Offset: 1, AppendTime: time.Now()}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, res.Record.RecordKey)
		kafkatest.Produce(t, bed, schemas.IdentityObservations, o.EvidenceID, o)
	}
	for i := range 6 {
		observe("acme", fmt.Sprint("r", i), fmt.Sprintf("a%d@example.org", i))
	}
	for i := range 4 {
		observe("other", fmt.Sprint("r", i), fmt.Sprintf("b%d@example.org", i))
	}
	sink := graph.Sink{Kafka: bed.Opts, Codec: bed.Codec, Bucket: blob.NewMemory()}
	persons := func(version string) int64 {
		t.Helper()
		_, v, err := graph.BuildFromTopic(t.Context(), sink, version)
		if err != nil {
			t.Fatal(err)
		}
		return v.Persons
	}
	catalogue := append([]kgo.Opt{}, bed.Opts...)
	catalogue = append(catalogue, kgo.RecordPartitioner(kgo.BasicConsistentPartitioner(func(topic string) func(*kgo.Record, int) int {
		return func(rec *kgo.Record, n int) int { return int(schemas.Partition(topic, rec.Key, int32(n))) }
	})))
	withdraw := func() int64 {
		t.Helper()
		shredded, err := seal.ReadShredded(t.Context(), bed.Opts, bed.Codec)
		if err != nil {
			t.Fatal(err)
		}
		n, err := identity.WithdrawEvidence(t.Context(), catalogue, bed.Codec, shredded)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := persons("before"); n != 10 {
		t.Fatalf("%d persons", n)
	}
	if n := withdraw(); n != 0 {
		t.Errorf("%d withdrawn although nobody was shredded", n)
	}
	if _, err := ring.Shred(t.Context(), seal.Shred{Account: "acme", RecordKeys: keys[:2]}); err != nil {
		t.Fatal(err)
	}
	if n := persons("two"); n != 8 {
		t.Errorf("%d persons after two records were shredded", n)
	}
	if n := withdraw(); n != 2 {
		t.Errorf("%d withdrawn, want 2", n)
	}
	if _, err := ring.Shred(t.Context(), seal.Shred{Account: "other"}); err != nil {
		t.Fatal(err)
	}
	if n := withdraw(); n != 4 {
		t.Errorf("%d withdrawn, want 4", n)
	}
	if n := withdraw(); n != 0 {
		t.Errorf("%d withdrawn again", n)
	}
	if n := persons("after"); n != 4 {
		t.Errorf("%d persons, want those of acme's four records", n)
	}
	// One that comes late, from a transaction that was open.
	late := &event.Observation{EvidenceID: "other/" + keys[6], Source: "other", Relation: event.RelationTogether, Weight: 1, FirstSeen: time.Now(), ObservedAt: time.Now(),
		Identifiers: []event.EvidenceIdentifier{{Kind: event.EvidenceIdentifierKindEmail, Hash: make([]byte, 16)}}}
	kafkatest.Produce(t, bed, schemas.IdentityObservations, late.EvidenceID, late)
	if n := persons("late"); n != 4 {
		t.Errorf("%d persons: evidence that came late counts", n)
	}
	if n := withdraw(); n != 1 {
		t.Errorf("%d withdrawn, want the late one", n)
	}
}
