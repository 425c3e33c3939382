package ingest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/identity"
	"databus/pkg/service"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

// runAppliers keeps one applier running for each database version that follows the Databus: those in state STANDBY or
// SERVING. A version that is being built, or caught up, has another writer.
func (s *Service) runAppliers(ctx context.Context) error {
	running := map[string]context.CancelFunc{}
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		changed := s.databases.Changed()
		want := map[string]event.DatabaseVersion{}
		for _, db := range s.databases.Followed() {
			want[db.Version] = db
		}
		for version, stop := range running {
			if _, ok := want[version]; !ok {
				stop()
				delete(running, version)
			}
		}
		for version, db := range want {
			if running[version] == nil {
				one, stop := context.WithCancel(ctx)
				running[version] = stop
				wg.Go(func() { s.keepApplying(one, db) })
			}
		}
		select {
		case <-ctx.Done():
			return nil // and so does every applier
		case <-changed:
		}
	}
}

// keepApplying runs a version's applier and starts it again from the committed offsets when Kafka or the store failed.
func (s *Service) keepApplying(ctx context.Context, db event.DatabaseVersion) {
	name := "applier/" + db.Version
	check := s.env.Health.Register(name)
	defer s.env.Health.Remove(name)
	progress := s.env.Progress(name + "/progress")
	defer s.env.Health.Remove(name + "/progress")
	for ctx.Err() == nil {
		err := s.apply(ctx, db, check, progress)
		if ctx.Err() != nil {
			return
		}
		s.metrics.retries.Inc()
		check.Set(false, err.Error())
		s.env.Log.Warn("applier stopped, it starts again from its committed offsets", "database", db.Version, "after", s.cfg.Applier.Retry, "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(s.cfg.Applier.Retry):
		}
	}
}

// apply is one life of a version's applier: records in order of offsets into the store, then the offsets. It returns
// when something fails; offsets that were not committed are read and applied again, which changes nothing.
func (s *Service) apply(ctx context.Context, db event.DatabaseVersion, check *service.Check, progress *service.Progress) error {
	g, err := s.graphs.Graph(ctx, db.GraphVersion)
	if err != nil {
		return err
	}
	store, err := s.stores.Keyspace(db.Keyspace)
	if err != nil {
		return err
	}
	client, err := kgo.NewClient(s.env.KafkaOpts(
		kgo.ConsumerGroup(db.ApplierGroup),
		kgo.InstanceID(s.env.GroupInstanceID("applier."+db.Version)),
		kgo.ConsumeTopics(schemas.DatabusRecords),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		// A version that starts from nothing starts at the beginning. An offset that retention has dropped is an error, not a reset.
		kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.BlockRebalanceOnPoll(),
		kgo.DisableAutoCommit(),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, got map[string][]int32) {
			progress.Assigned(schemas.DatabusRecords, got[schemas.DatabusRecords]...)
			progress.Restored(schemas.DatabusRecords, got[schemas.DatabusRecords]...)
		}),
		kgo.OnPartitionsRevoked(func(_ context.Context, _ *kgo.Client, lost map[string][]int32) {
			progress.Revoked(schemas.DatabusRecords, lost[schemas.DatabusRecords]...)
		}),
		kgo.OnPartitionsLost(func(_ context.Context, _ *kgo.Client, lost map[string][]int32) {
			progress.Revoked(schemas.DatabusRecords, lost[schemas.DatabusRecords]...)
		}),
	)...)
	if err != nil {
		return fmt.Errorf("making the applier's client: %w", err)
	}
	defer client.CloseAllowingRebalance()
	a := &applying{Service: s, db: db, applier: identity.Applier{Rows: s.resolver, Graph: g}, store: store}
	for {
		fetches := client.PollRecords(ctx, s.cfg.Applier.MaxBatch)
		if ctx.Err() != nil {
			return nil
		}
		if err := fetchError(fetches); err != nil {
			return err
		}
		records := fetches.Records()
		if err := a.batch(ctx, records); err != nil {
			return err
		}
		if len(records) > 0 {
			if err := client.CommitRecords(ctx, records...); err != nil {
				return fmt.Errorf("committing offsets of group %s: %w", db.ApplierGroup, err)
			}
		}
		check.Set(true, "")
		fetches.EachPartition(func(p kgo.FetchTopicPartition) {
			if n := len(p.Records); n > 0 {
				progress.Observe(p.Topic, p.Partition, p.Records[n-1].Offset+1, p.HighWatermark)
			}
		})
		client.AllowRebalance()
	}
}

// fetchError returns the first error that polling found, with what to do about it.
func fetchError(fetches kgo.Fetches) error {
	var found error
	fetches.EachError(func(topic string, partition int32, err error) {
		if found == nil && !errors.Is(err, context.Canceled) {
			found = fmt.Errorf("fetching %s/%d: %w; if retention has dropped what was not applied yet, rebuild the database from the archive", topic, partition, err)
		}
	})
	return found
}

// applying is what the batches of one applier's life share.
type applying struct {
	*Service
	db      event.DatabaseVersion
	applier identity.Applier
	store   identity.Store
}

// batch applies records; each partition's come in order of offsets.
func (a *applying) batch(ctx context.Context, records []*kgo.Record) error {
	inputs := make([]identity.Input, 0, len(records))
	for _, rec := range records {
		var record event.DatabusRecord
		err := a.Service.records.Decode(ctx, rec.Value, &record)
		if codec.IsPoison(err) {
			a.metrics.undecoded.Inc() // the evidence loop writes the dead letter, once for all appliers
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
	for _, r := range results {
		a.metrics.applied.WithLabelValues(a.db.Version, r.Outcome.String()).Inc()
	}
	return nil
}
