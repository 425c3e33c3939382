package archiver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
)

func (a *Archiver) clientOpts() []kgo.Opt {
	// The offsets are sent by hand (see commit.go), in the form that names topics and announces the group first.
	versions := kversion.Stable()
	versions.SetMaxKeyVersion(int16(kmsg.TxnOffsetCommit), 4)
	a.mu.Lock()
	topics := slices.Clone(a.topics)
	a.mu.Unlock()
	opts := append([]kgo.Opt{kgo.SessionTimeout(a.cfg.SessionTimeout), kgo.HeartbeatInterval(a.cfg.SessionTimeout / 4)}, a.Client...)
	opts = append(opts,
		kgo.MaxVersions(versions),
		kgo.ConsumerGroup(Name),
		kgo.ConsumeTopics(topics...),
		kgo.Balancers(kgo.RangeBalancer()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		// Control records take part in the position: without them a range would never reach the end of its topic.
		kgo.KeepControlRecords(),
		kgo.DisableAutoCommit(),
		kgo.BlockRebalanceOnPoll(),
		kgo.RebalanceTimeout(a.cfg.PutTimeout+time.Minute),
		// Never reset: what is gone must be named, not skipped.
		kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.TransactionalID(a.TransactionalID),
		kgo.TransactionTimeout(a.TransactionTimeout),
		kgo.OnOffsetsFetched(a.offsetsFetched),
		kgo.AdjustFetchOffsetsFn(a.assign),
		kgo.OnPartitionsAssigned(a.joined),
		kgo.OnPartitionsRevoked(a.revoked),
		kgo.OnPartitionsLost(a.revoked),
	)
	if a.InstanceID != "" {
		opts = append(opts, kgo.InstanceID(a.InstanceID))
	}
	return opts
}

// joined notes as whom this instance may commit. A commit under any other generation could be a zombie's.
func (a *Archiver) joined(_ context.Context, client *kgo.Client, assigned map[string][]int32) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.member, a.generation = client.GroupMetadata()
	if a.Progress == nil {
		return
	}
	for _, topic := range a.topics {
		a.Progress.Assigned(topic, assigned[topic]...)
	}
}

// offsetsFetched keeps the metadata of the committed offsets: the schema of the partition's last object.
func (a *Archiver) offsetsFetched(_ context.Context, _ *kgo.Client, resp *kmsg.OffsetFetchResponse) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	note := func(topic string, partition int32, metadata *string) {
		delete(a.metadata, tp{topic, partition})
		if metadata != nil {
			a.metadata[tp{topic, partition}] = *metadata
		}
	}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			note(t.Topic, p.Partition, p.Metadata)
		}
	}
	for _, g := range resp.Groups {
		for _, t := range g.Topics {
			for _, p := range t.Partitions {
				note(t.Topic, p.Partition, p.Metadata)
			}
		}
	}
	return nil
}

// assign begins the assigned partitions at their committed offsets; a partition that nobody has committed begins at
// the topic's start, which is committed before the first object is named by it.
func (a *Archiver) assign(ctx context.Context, offsets map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
	<-a.opened
	var starts kadm.ListedOffsets
	for topic, partitions := range offsets {
		for id, offset := range partitions {
			first := offset.EpochOffset().Offset
			uncommitted := first < 0
			if uncommitted {
				if starts == nil {
					var err error
					if starts, err = a.startOffsets(ctx, slices.Collect(maps.Keys(offsets))); err != nil {
						return nil, err
					}
				}
				start, ok := starts.Lookup(topic, id)
				if !ok {
					return nil, fmt.Errorf("listing start offsets: the answer lacks %s/%d", topic, id)
				}
				first = start.Offset
				partitions[id] = kgo.NewOffset().At(first)
			}
			if err := a.add(topic, id, first, uncommitted); err != nil {
				return nil, err
			}
		}
	}
	return offsets, nil
}

// startOffsets asks until every topic has answered: the client remembers a topic that was just created as unknown.
func (a *Archiver) startOffsets(ctx context.Context, topics []string) (kadm.ListedOffsets, error) {
	for {
		starts, err := a.admin.ListStartOffsets(ctx, topics...)
		if err = errors.Join(err, starts.Error()); err == nil {
			return starts, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("listing start offsets: %w", err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (a *Archiver) add(topic string, id int32, first int64, uncommitted bool) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	key := tp{topic, id}
	if old := a.partitions[key]; old != nil {
		old.spool.Close()
	}
	p := &partition{topic: topic, id: id, first: first, uncommitted: uncommitted, position: first, lastAppend: time.Now()}
	p.schemaID = parseMetadata(a.metadata[key])
	delete(a.metadata, key)
	var err error
	if p.spool, err = newSpool(p.spoolPath(a.spoolDir)); err != nil {
		return err
	}
	a.partitions[key] = p
	a.client.ResumeFetchPartitions(p.selector())
	if a.Progress != nil {
		a.Progress.Restored(topic, id)
	}
	return nil
}

func (a *Archiver) revoked(_ context.Context, _ *kgo.Client, revoked map[string][]int32) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for topic, ids := range revoked {
		for _, id := range ids {
			if p := a.partitions[tp{topic, id}]; p != nil {
				p.spool.Close()
				delete(a.partitions, tp{topic, id})
			}
		}
		if a.Progress != nil {
			a.Progress.Revoked(topic, ids...)
		}
	}
}

func (a *Archiver) closeAll() {
	a.client.CloseAllowingRebalance()
	a.mu.Lock()
	defer a.mu.Unlock()
	for key, p := range a.partitions {
		p.spool.Close()
		delete(a.partitions, key)
	}
}

// assigned lists the partitions in a fixed order.
func (a *Archiver) assigned() []*partition {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := slices.Collect(maps.Values(a.partitions))
	slices.SortFunc(all, func(x, y *partition) int {
		if x.topic != y.topic {
			return strings.Compare(x.topic, y.topic)
		}
		return int(x.id) - int(y.id)
	})
	return all
}

func (a *Archiver) find(topic string, id int32) *partition {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.partitions[tp{topic, id}]
}

// take notes what was fetched, and why nothing was.
func (a *Archiver) take(ctx context.Context, fetches kgo.Fetches) error {
	var fenced error
	fetches.EachPartition(func(f kgo.FetchTopicPartition) {
		p := a.find(f.Topic, f.Partition)
		switch {
		case f.Err == nil, errors.Is(f.Err, context.DeadlineExceeded), errors.Is(f.Err, context.Canceled):
		case errors.Is(f.Err, kerr.FencedInstanceID):
			fenced = &fatal{fmt.Errorf("another instance runs with the id %q: %w", a.InstanceID, f.Err)}
		case p != nil && errors.Is(f.Err, kerr.OffsetOutOfRange):
			a.outOfRange(ctx, p)
		default:
			a.Log.Warn("fetching", "topic", f.Topic, "partition", f.Partition, "error", f.Err)
		}
		if p == nil || p.stopped != "" {
			return
		}
		p.pending = append(p.pending, f.Records...)
		p.end = max(p.end, f.HighWatermark)
	})
	return fenced
}

// outOfRange stops a partition whose next records the topic no longer has, and names the gap.
func (a *Archiver) outOfRange(ctx context.Context, p *partition) {
	gap := "the topic's range could not be asked"
	starts, err := a.admin.ListStartOffsets(ctx, p.topic)
	ends, err2 := a.admin.ListEndOffsets(ctx, p.topic)
	if err == nil && err2 == nil {
		start, _ := starts.Lookup(p.topic, p.id)
		end, _ := ends.Lookup(p.topic, p.id)
		gap = fmt.Sprintf("the topic has [%d, %d)", start.Offset, end.Offset)
		if start.Offset > p.position {
			gap += fmt.Sprintf(", so [%d, %d) was deleted before it was archived", p.position, start.Offset)
		}
	}
	_ = a.handle(p, &stop{fmt.Sprintf("offset %d is out of range: %s; restore the records, or accept the loss "+
		"by moving the group %s to the topic's start, and restart", p.position, gap, Name)})
}

// throttle reads no further where a cut has to be tried again.
func (a *Archiver) throttle(now time.Time) {
	for _, p := range a.assigned() {
		wait := p.stopped != "" || now.Before(p.retryAt)
		switch {
		case wait && !p.paused:
			a.client.PauseFetchPartitions(p.selector())
		case !wait && p.paused:
			a.client.ResumeFetchPartitions(p.selector())
		}
		p.paused = wait
	}
}

func (a *Archiver) observe(p *partition) {
	if a.Progress != nil {
		a.Progress.Observe(p.topic, p.id, p.position, p.end)
	}
}

// healthy is the readiness of the partitions: it names those that stand still.
func (a *Archiver) healthy() (bool, string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var reasons []string
	for _, p := range a.partitions {
		if reason := p.problem.Load(); reason != nil {
			reasons = append(reasons, fmt.Sprintf("%s: %s", p.name(), *reason))
		}
	}
	slices.Sort(reasons)
	if old := a.old.Load(); old != nil && *old != "" {
		reasons = append(reasons, *old)
	}
	return len(reasons) == 0, strings.Join(reasons, "; ")
}

// troubled counts what healthy names.
func (a *Archiver) troubled() float64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := 0.0
	for _, p := range a.partitions {
		if p.problem.Load() != nil {
			n++
		}
	}
	return n
}

func metadata(schemaID int) string { return fmt.Sprintf("schema=%d", schemaID) }

func parseMetadata(s string) (schemaID int) {
	_, _ = fmt.Sscanf(s, "schema=%d", &schemaID) // anything else is an offset that was set by hand: no schema yet
	return schemaID
}
