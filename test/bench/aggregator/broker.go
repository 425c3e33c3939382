package aggregator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/service"
	"databus/pkg/topics"
	"databus/schemas"
)

func (b *bench) newClient(opts ...kgo.Opt) (*kgo.Client, error) {
	c, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(b.addr), kgo.RecordPartitioner(service.Partitioner()),
		kgo.MetadataMinAge(200 * time.Millisecond), kgo.FetchMaxWait(100 * time.Millisecond)}, opts...)...)
	if err != nil {
		return nil, fmt.Errorf("making a client: %w", err)
	}
	return c, nil
}

// ends returns the end of each partition of a topic.
func (b *bench) ends(ctx context.Context, topic string) (map[int32]int64, error) {
	listed, err := b.admin.ListEndOffsets(ctx, topic)
	if err == nil {
		err = listed.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("asking for the end of %s: %w", topic, err)
	}
	ends := map[int32]int64{}
	listed.Each(func(o kadm.ListedOffset) { ends[o.Partition] = o.Offset })
	return ends, nil
}

// committed is the number of events that a group has committed.
func (b *bench) committed(ctx context.Context, group string) (int64, error) {
	offsets, err := b.admin.FetchOffsets(ctx, group)
	if errors.Is(err, kerr.GroupIDNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("asking for the offsets of %s: %w", group, err)
	}
	n := int64(0)
	offsets.Each(func(o kadm.OffsetResponse) {
		if o.Topic == schemas.UsageEvents {
			n += max(0, o.At)
		}
	})
	return n, nil
}

func (b *bench) remove(ctx context.Context, group string, which func(topic string) bool) error {
	// A member that was killed keeps its group alive for the session timeout.
	deadline := time.Now().Add(time.Minute)
	for {
		r, err := b.admin.DeleteGroups(ctx, group)
		if err == nil {
			err = r.Error()
		}
		if err == nil || errors.Is(err, kerr.GroupIDNotFound) {
			break
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			return fmt.Errorf("deleting group %s: %w", group, err)
		}
		if errors.Is(err, kerr.NonEmptyGroup) {
			if err := b.evict(ctx, group); err != nil {
				return err
			}
		}
		time.Sleep(200 * time.Millisecond)
	}
	all, err := b.admin.ListTopics(ctx)
	if err != nil {
		return fmt.Errorf("listing topics: %w", err)
	}
	var names []string
	for _, name := range all.Names() {
		if which(name) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	deleted, err := b.admin.DeleteTopics(ctx, names...)
	if err == nil {
		err = deleted.Error()
	}
	if err != nil {
		return fmt.Errorf("deleting topics: %w", err)
	}
	return b.await(ctx, "topics are still listed behind their deletion", func() (bool, error) {
		all, err := b.admin.ListTopics(ctx)
		if err != nil {
			return false, err
		}
		for _, name := range names {
			if all.Has(name) {
				return false, nil
			}
		}
		return true, nil
	})
}

// evict takes static members, which a stop leaves in, out of a group.
func (b *bench) evict(ctx context.Context, group string) error {
	described, err := b.admin.DescribeGroups(ctx, group)
	if err != nil {
		return fmt.Errorf("describing group %s: %w", group, err)
	}
	var ids []string
	for _, m := range described[group].Members {
		if m.InstanceID != nil {
			ids = append(ids, *m.InstanceID)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	if _, err := b.admin.LeaveGroup(ctx, kadm.LeaveGroup(group).InstanceIDs(ids...)); err != nil {
		return fmt.Errorf("taking members out of group %s: %w", group, err)
	}
	return nil
}

// recreate gives a group no offsets and the topics no records.
func (b *bench) recreate(ctx context.Context, group string, catalogue []schemas.Topic) error {
	names := map[string]bool{}
	for _, t := range catalogue {
		names[t.Name] = true
	}
	if err := b.remove(ctx, group, func(topic string) bool { return names[topic] }); err != nil {
		return err
	}
	if _, err := topics.Apply(ctx, b.admin, catalogue, topics.Options{}); err != nil {
		return err
	}
	return b.await(ctx, "topics have no leader behind their creation", func() (bool, error) {
		all, err := b.admin.ListTopics(ctx)
		if err != nil {
			return false, err
		}
		for name := range names {
			d, ok := all[name]
			if !ok || d.Err != nil || len(d.Partitions) == 0 {
				return false, nil
			}
			for _, p := range d.Partitions {
				if p.Err != nil || p.Leader < 0 {
					return false, nil
				}
			}
		}
		return true, nil
	})
}

func (b *bench) await(ctx context.Context, otherwise string, f func() (bool, error)) error {
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		ok, err := f()
		switch {
		case ok:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case time.Now().After(deadline):
			return errors.Join(errors.New(otherwise), err)
		}
	}
}
