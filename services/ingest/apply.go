package ingest

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/identity"
	"databus/pkg/service"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

// applying is one life of a version's applier.
type applying struct {
	*Service
	db       event.DatabaseVersion
	applier  identity.Applier
	store    identity.Store
	client   *kgo.Client
	progress *service.Progress
}

// apply is one life of a version's applier: records in order of offsets into the store, then the offsets. It returns
// when something fails; offsets that were not committed are read and applied again, which changes nothing.
func (s *Service) apply(ctx context.Context, db event.DatabaseVersion, standing *standing, progress *service.Progress) (err error) {
	g, err := s.graphs.Graph(ctx, db.GraphVersion)
	if err != nil {
		return err
	}
	store, err := s.stores.Keyspace(db.Keyspace)
	if err != nil {
		return err
	}
	if s.env.Crash != nil {
		store = identity.Steps(store, s.env.Crash)
	}
	a := &applying{Service: s, db: db, applier: identity.Applier{Rows: s.resolver, Graph: g}, store: store, progress: progress}
	if a.client, err = kgo.NewClient(a.options(standing)...); err != nil {
		return fmt.Errorf("making the applier's client: %w", err)
	}
	defer a.client.CloseAllowingRebalance()
	defer func() {
		if err != nil {
			standing.end(err) // before closing takes the partitions away, which cures nothing
		}
	}()
	for {
		fetches := a.client.PollRecords(ctx, s.cfg.Applier.MaxBatch)
		if ctx.Err() != nil {
			return nil
		}
		if err := fetchError(fetches); err != nil {
			return err
		}
		partitions := a.observe(fetches, false)
		err := a.batch(ctx, fetches.Records())
		if ctx.Err() != nil {
			return nil
		}
		standing.applied(partitions, err)
		if err != nil {
			return err
		}
		a.observe(fetches, true)
		a.client.AllowRebalance()
	}
}

func (a *applying) options(standing *standing) []kgo.Opt {
	const topic = schemas.DatabusRecords
	revoked := func(_ context.Context, _ *kgo.Client, lost map[string][]int32) {
		a.progress.Revoked(topic, lost[topic]...)
		standing.revoked(lost[topic])
	}
	return a.env.KafkaOpts(
		kgo.ConsumerGroup(a.db.ApplierGroup),
		kgo.InstanceID(a.applierInstance(a.db)),
		kgo.ConsumeTopics(topic),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		// The request loop writes transactions. Without their markers the group would never reach the partition's end.
		kgo.KeepControlRecords(),
		// A version that starts from nothing starts at the beginning. An offset that retention has dropped is an error, not a reset.
		kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.BlockRebalanceOnPoll(),
		kgo.DisableAutoCommit(),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, got map[string][]int32) {
			a.progress.Assigned(topic, got[topic]...)
			a.progress.Restored(topic, got[topic]...)
			standing.assigned(got[topic])
		}),
		kgo.OnPartitionsRevoked(revoked),
		kgo.OnPartitionsLost(revoked),
	)
}

// observe tells progress and metrics where the partitions of a poll stand, before or after they are applied, and returns
// which those are. A partition that cannot be applied so has lag that does not move.
func (a *applying) observe(fetches kgo.Fetches, applied bool) map[int32]bool {
	partitions := map[int32]bool{}
	fetches.EachPartition(func(p kgo.FetchTopicPartition) {
		if len(p.Records) == 0 {
			return
		}
		partitions[p.Partition] = true
		at := p.Records[0].Offset
		if applied {
			at = p.Records[len(p.Records)-1].Offset + 1
		}
		a.progress.Observe(p.Topic, p.Partition, at, p.HighWatermark)
	})
	a.metrics.lag.WithLabelValues(a.db.Version).Set(float64(a.progress.Lag()))
	return partitions
}

// batch applies records, each partition's in order of offsets, and commits them.
func (a *applying) batch(ctx context.Context, records []*kgo.Record) error {
	inputs := make([]identity.Input, 0, len(records))
	for _, rec := range records {
		if rec.Attrs.IsControl() {
			continue
		}
		var record event.DatabusRecord
		err := a.records.Decode(ctx, rec.Value, &record)
		if codec.IsPoison(err) {
			a.metrics.undecoded.WithLabelValues(a.db.Version).Inc() // the evidence loop writes the dead letter, once for all appliers
			continue
		}
		if err != nil {
			return fmt.Errorf("decoding %s/%d@%d: %w", rec.Topic, rec.Partition, rec.Offset, err)
		}
		inputs = append(inputs, identity.Input{Record: &record, Epoch: a.db.Epoch, Offset: rec.Offset, AppendTime: rec.Timestamp})
	}
	results, err := a.applier.Apply(ctx, a.store, inputs)
	if err != nil {
		return err
	}
	var dead []error
	for _, r := range results {
		a.metrics.applied.WithLabelValues(a.db.Version, r.Outcome.String()).Inc()
		if r.Outcome == identity.Dead {
			dead = append(dead, r.Err)
		}
	}
	if len(dead) > 0 {
		a.env.Log.Warn("records that can never be read were skipped", "database", a.db.Version, "records", len(dead), "first", dead[0])
	}
	if err := a.at(PointApplied); err != nil {
		return err
	}
	if err := a.client.CommitRecords(ctx, records...); err != nil {
		return fmt.Errorf("committing offsets of group %s: %w", a.db.ApplierGroup, err)
	}
	return nil
}

// fetchError returns the first error that polling found, with what to do about it.
func fetchError(fetches kgo.Fetches) error {
	var found error
	fetches.EachError(func(topic string, partition int32, err error) {
		switch {
		case found != nil, errors.Is(err, context.Canceled):
		case errors.Is(err, kerr.OffsetOutOfRange):
			found = fmt.Errorf("fetching %s/%d: %w; retention has dropped what this database has not applied: "+
				"rebuild it from the archive, and lengthen the topic's retention", topic, partition, err)
		default:
			found = fmt.Errorf("fetching %s/%d: %w", topic, partition, err)
		}
	})
	return found
}
