package story

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/cmd/databus/internal/local"
	"databus/schemas"
	"databus/schemas/codec"
)

// ends are, per partition of databus.records, the offset behind the newest record that the story has written.
type ends map[int32]int64

func (e ends) add(partition int32, next int64) { e[partition] = max(e[partition], next) }

// reached says whether positions are at or behind the ends everywhere.
func (e ends) reached(position map[int32]int64) bool {
	for p, end := range e {
		if position[p] < end {
			return false
		}
	}
	return true
}

// until polls a condition.
func until(ctx context.Context, limit time.Duration, what string, ok func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		done, err := ok(ctx)
		if done {
			return nil
		}
		select {
		case <-ctx.Done():
			if err != nil {
				return fmt.Errorf("waiting for %s: %w", what, err)
			}
			return fmt.Errorf("waiting for %s: not within %v", what, limit)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// groupReached waits until a consumer group of databus.records has committed up to the ends.
func (s *story) groupReached(ctx context.Context, group string) error {
	client, err := kgo.NewClient(s.stack.KafkaOpts()...)
	if err != nil {
		return err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	return until(ctx, 2*time.Minute, "group "+group, func(ctx context.Context) (bool, error) {
		committed, err := admin.FetchOffsets(ctx, group)
		if err != nil {
			return false, err
		}
		position := map[int32]int64{}
		committed.Each(func(o kadm.OffsetResponse) {
			if o.Topic == schemas.DatabusRecords {
				position[o.Partition] = o.At
			}
		})
		return s.ends.reached(position), committed.Error()
	})
}

// produce sends one event.
func produce[T any](ctx context.Context, stack *local.Stack, topic, key string, v *T) error {
	value, err := codec.For[T](stack.Codec, topic).Encode(ctx, v)
	if err != nil {
		return err
	}
	client, err := kgo.NewClient(stack.KafkaOpts()...)
	if err != nil {
		return err
	}
	defer client.Close()
	if err := client.ProduceSync(ctx, &kgo.Record{Topic: topic, Key: []byte(key), Value: value}).FirstErr(); err != nil {
		return fmt.Errorf("producing to %s: %w", topic, err)
	}
	return nil
}

// marks are the ends of a topic's partitions at some time.
type marks map[int32]int64

// markNow asks for the ends of a topic.
func markNow(ctx context.Context, stack *local.Stack, topic string) (marks, error) {
	client, err := kgo.NewClient(stack.KafkaOpts()...)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	listed, err := kadm.NewClient(client).ListEndOffsets(ctx, topic)
	if err == nil {
		err = listed.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("asking for the ends of %s: %w", topic, err)
	}
	m := marks{}
	listed.Each(func(o kadm.ListedOffset) { m[o.Partition] = o.Offset })
	return m, nil
}

// watch reads committed events of a topic from the marks on until each returns true or an error.
func watch[T any](ctx context.Context, stack *local.Stack, topic string, from marks, each func(rec *kgo.Record, v *T) (bool, error)) error {
	offsets := map[int32]kgo.Offset{}
	for p, at := range maps.All(from) {
		offsets[p] = kgo.NewOffset().At(at)
	}
	client, err := kgo.NewClient(stack.KafkaOpts(
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: offsets}),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
	)...)
	if err != nil {
		return err
	}
	defer client.Close()
	serde := codec.For[T](stack.Codec, topic)
	for {
		fetches := client.PollFetches(ctx)
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("reading %s: %w", topic, err)
		}
		for _, rec := range fetches.Records() {
			if rec.Value == nil {
				continue
			}
			var v T
			if err := serde.Decode(ctx, rec.Value, &v); err != nil {
				return err
			}
			if done, err := each(rec, &v); done || err != nil {
				return err
			}
		}
	}
}
