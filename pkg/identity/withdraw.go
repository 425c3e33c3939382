package identity

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/follow"
	"databus/pkg/seal"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

// WithdrawEvidence replaces, on identity.observations, every piece of evidence of the shredded by its withdrawal, so that
// compaction removes the hashes, and returns how many there were. It may be called again; a graph that is built leaves such
// evidence out in any case. The client's options must name the catalogue's partitioner.
func WithdrawEvidence(ctx context.Context, kafka []kgo.Opt, c *codec.Codec, shredded *seal.Shredded) (int64, error) {
	fail := func(err error) (int64, error) { return 0, fmt.Errorf("withdrawing evidence: %w", err) }
	if shredded.None() {
		return 0, nil
	}
	serde := codec.For[event.Observation](c, schemas.IdentityObservations)
	found := map[string]event.Observation{}
	var failed atomic.Pointer[error]
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f, err := follow.Topic(ctx, kafka, schemas.IdentityObservations, func(rec *kgo.Record) {
		delete(found, string(rec.Key))
		if rec.Value == nil || failed.Load() != nil {
			return
		}
		var o event.Observation
		if err := serde.Decode(ctx, rec.Value, &o); err != nil {
			err = fmt.Errorf("partition %d, offset %d of %s: %w", rec.Partition, rec.Offset, rec.Topic, err)
			failed.Store(&err)
			return
		}
		if o.Relation != event.RelationWithdrawn && shredded.Evidence(o.Source, o.EvidenceID) {
			o.Identifiers = nil
			found[string(rec.Key)] = o
		}
	})
	if err != nil {
		return fail(err)
	}
	err = f.Ready(ctx)
	f.Close()
	if cause := failed.Load(); cause != nil {
		err = *cause
	}
	if err != nil {
		return fail(err)
	}
	client, err := kgo.NewClient(append(append([]kgo.Opt{}, kafka...), kgo.RequiredAcks(kgo.AllISRAcks()))...)
	if err != nil {
		return fail(err)
	}
	defer client.Close()
	var recs []*kgo.Record
	for key, o := range found {
		o.Relation, o.Identifiers, o.ObservedAt = event.RelationWithdrawn, []event.EvidenceIdentifier{}, time.Now().UTC()
		value, err := serde.Encode(ctx, &o)
		if err != nil {
			return fail(err)
		}
		recs = append(recs, &kgo.Record{Topic: schemas.IdentityObservations, Key: []byte(key), Value: value})
	}
	if err := client.ProduceSync(ctx, recs...).FirstErr(); err != nil {
		return fail(err)
	}
	return int64(len(recs)), nil
}
