package graph_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/blob"
	"databus/pkg/follow"
	"databus/pkg/graph"
	"databus/pkg/internal/kafkatest"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

func observation(n *graph.Normaliser, id string, seconds int64, fields map[string]string) *event.Observation {
	ids, _ := n.Identifiers(fields)
	at := time.Unix(seconds, 0)
	return &event.Observation{EvidenceID: id, Source: "test", Relation: event.RelationTogether, Identifiers: graph.ToEvidence(ids), Weight: 1, FirstSeen: at, ObservedAt: at}
}

func TestBuildFromTopicAndLoad(t *testing.T) {
	bed := kafkatest.New(t, schemas.IdentityObservations, schemas.IdentityGraphs, schemas.KeysEvents)
	n, err := graph.NewNormaliser([32]byte{1}, "AU")
	if err != nil {
		t.Fatal(err)
	}
	sink := graph.Sink{Kafka: bed.Opts, Codec: bed.Codec, Bucket: blob.NewMemory()}
	if _, err := graph.PublishGenesis(t.Context(), sink); err != nil {
		t.Fatal(err)
	}
	var announced []event.GraphVersion
	f, err := follow.Topic(t.Context(), bed.Opts, schemas.IdentityGraphs, func(rec *kgo.Record) {
		var v event.GraphVersion
		if err := codec.For[event.GraphVersion](bed.Codec, rec.Topic).Decode(context.Background(), rec.Value, &v); err != nil {
			t.Error(err)
		}
		announced = append(announced, v)
	})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()

	for i := range 30 {
		o := observation(n, fmt.Sprint("e", i), int64(i), map[string]string{"email": fmt.Sprintf("m%d@example.org", i), "phone": fmt.Sprintf("+6141234560%d", i%10)})
		kafkatest.Produce(t, bed, schemas.IdentityObservations, o.EvidenceID, o)
	}
	// Newest per id: e0 is withdrawn, e1 a tombstone, e2 says something else although its clock is behind.
	gone := observation(n, "e0", 100, nil)
	gone.Relation = event.RelationWithdrawn
	kafkatest.Produce(t, bed, schemas.IdentityObservations, "e0", gone)
	bed.ProduceBytes(t, schemas.IdentityObservations, "e1", nil)
	kafkatest.Produce(t, bed, schemas.IdentityObservations, "e2", observation(n, "e2", 0, map[string]string{"email": "changed@example.org"}))

	built, v, err := graph.BuildFromTopic(t.Context(), sink, "g2")
	if err != nil {
		t.Fatal(err)
	}
	// 10 phones of 3 mails each; three mails lost their phone, one of them counts alone.
	if s := built.Stats(); s.Persons != 11 || s.Identifiers != 10+2*28 || s.Shared != 0 {
		t.Errorf("stats %+v", s)
	}
	var positions int64
	for _, p := range v.Evidence {
		positions += p.Offset
	}
	if positions != 33 {
		t.Errorf("evidence up to %v, want 33 records", v.Evidence)
	}
	if err := f.CaughtUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.Close() // its handler writes announced
	if len(announced) != 2 || announced[0].Version != "g1" || announced[1].Version != "g2" {
		t.Fatalf("announced: %+v", announced)
	}
	cache := graph.NewCache(sink.Bucket, t.TempDir(), nil)
	for _, v := range announced {
		g, err := cache.Graph(t.Context(), &v)
		if err != nil {
			t.Fatal(err)
		}
		if g.Stats().Persons != v.Persons {
			t.Errorf("%s: %+v", v.Version, g.Stats())
		}
	}

	// The same evidence again is fine, other evidence under the same name is not.
	again, _, err := graph.BuildFromTopic(t.Context(), sink, "g2")
	if err != nil || !bytes.Equal(again.File, built.File) {
		t.Fatalf("building again: %v", err)
	}
	kafkatest.Produce(t, bed, schemas.IdentityObservations, "new", observation(n, "new", 1, map[string]string{"email": "new@example.org"}))
	if _, _, err := graph.BuildFromTopic(t.Context(), sink, "g2"); err == nil {
		t.Error("a version was replaced")
	}
	changed := announced[1]
	changed.Object = announced[0].Object
	if _, err := graph.NewCache(sink.Bucket, t.TempDir(), nil).Graph(t.Context(), &changed); !errors.Is(err, graph.ErrCorrupt) {
		t.Errorf("another object: %v", err)
	}
	changed.Object = "graphs/gone.graph"
	if _, err := graph.NewCache(sink.Bucket, t.TempDir(), nil).Graph(t.Context(), &changed); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("a missing object: %v", err)
	}
	// Evidence that cannot be read fails the build: leaving it out would split persons.
	bed.ProduceBytes(t, schemas.IdentityObservations, "bad", []byte("garbage"))
	if _, _, err := graph.BuildFromTopic(t.Context(), sink, "g3"); !errors.Is(err, codec.ErrUndecodable) {
		t.Errorf("garbage: %v", err)
	}
}
