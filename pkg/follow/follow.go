// Package follow reads a whole topic, from its first record on, and keeps reading: the way to hold a compacted topic as
// a table in memory.
//
// Promise: the handler sees every committed record of every partition that the topic holds when the follower starts
// and every later one, each partition in order of offsets, and it has returned before Ready, CaughtUp or Positions
// count the record. Compaction may hide older records of a key, never its newest. No consumer group is involved and
// nothing is committed: every process has its own follower and reads the topic again when it starts.
//
// Concurrency: the handler runs on one goroutine, one record at a time, so state that only it writes needs a lock only
// for its readers. All methods may be called by any number of goroutines, but Ready and CaughtUp not by the handler,
// which would wait for itself.
//
// Failure: an unreachable broker is waited for; brokers that come back are found again. An open transaction hides what
// follows it until it ends (read committed), so CaughtUp can take as long as the longest transaction timeout. A fetch
// error that retries cannot cure (authorisation, a deleted topic) is kept for Err and reported to the logger of the
// options, and the follower goes on trying.
package follow

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// ErrClosed is returned to those who wait for a follower that was closed or whose context is done.
var ErrClosed = errors.New("follower is closed")

// Follower follows one topic until Close or until the context given to Topic is done.
type Follower struct {
	topic  string
	client *kgo.Client
	admin  *kadm.Client
	cancel context.CancelFunc
	done   chan struct{}

	mu       sync.Mutex
	moved    chan struct{}   // closed and replaced when a position or err changes
	position map[int32]int64 // next offset per partition
	target   map[int32]int64 // high watermarks at the start
	err      error
}

// Topic starts to follow a topic and returns as soon as the brokers have said how far it reaches: Ready waits for that
// point. The options say where the brokers are; they must not join a group. The topic must exist. The handler must
// return; control records are not shown to it.
func Topic(ctx context.Context, opts []kgo.Opt, topic string, handle func(*kgo.Record)) (*Follower, error) {
	all := append([]kgo.Opt{}, opts...)
	all = append(all,
		kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		// Without the control records the position would stop short of a high watermark behind a commit marker.
		kgo.KeepControlRecords(),
	)
	client, err := kgo.NewClient(all...)
	if err != nil {
		return nil, fmt.Errorf("following topic %s: %w", topic, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	f := &Follower{
		topic: topic, client: client, admin: kadm.NewClient(client), cancel: cancel,
		done: make(chan struct{}), moved: make(chan struct{}),
	}
	if err := f.measure(ctx); err != nil {
		cancel()
		client.Close()
		return nil, fmt.Errorf("following topic %s: %w", topic, err)
	}
	go f.run(ctx, handle)
	return f, nil
}

// measure sets the first position and the target of Ready. A log whose records were all deleted starts at its end.
func (f *Follower) measure(ctx context.Context) error {
	starts, err := f.admin.ListStartOffsets(ctx, f.topic)
	if err == nil {
		err = starts.Error()
	}
	if err != nil {
		return fmt.Errorf("asking for start offsets: %w", err)
	}
	f.position = map[int32]int64{}
	starts.Each(func(o kadm.ListedOffset) { f.position[o.Partition] = o.Offset })
	f.target, err = f.ends(ctx)
	return err
}

// ends asks for the high watermarks now, open transactions included.
func (f *Follower) ends(ctx context.Context) (map[int32]int64, error) {
	listed, err := f.admin.ListEndOffsets(ctx, f.topic)
	if err == nil {
		err = listed.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("asking for end offsets: %w", err)
	}
	ends := map[int32]int64{}
	listed.Each(func(o kadm.ListedOffset) { ends[o.Partition] = o.Offset })
	if len(ends) == 0 {
		return nil, errors.New("asking for end offsets: the topic does not exist; create it from the catalogue")
	}
	return ends, nil
}

func (f *Follower) run(ctx context.Context, handle func(*kgo.Record)) {
	defer close(f.done)
	defer f.client.Close()
	for {
		fetches := f.client.PollFetches(ctx)
		if ctx.Err() != nil || fetches.IsClientClosed() {
			return
		}
		var failed error
		fetches.EachError(func(_ string, partition int32, err error) {
			failed = fmt.Errorf("following topic %s, partition %d: %w", f.topic, partition, err)
		})
		next := map[int32]int64{}
		fetches.EachPartition(func(p kgo.FetchTopicPartition) {
			for _, rec := range p.Records {
				if !rec.Attrs.IsControl() {
					handle(rec)
				}
				next[p.Partition] = rec.Offset + 1
			}
		})
		f.mu.Lock()
		maps.Copy(f.position, next)
		f.err = failed
		close(f.moved)
		f.moved = make(chan struct{})
		f.mu.Unlock()
	}
}

// Ready waits until the follower has handled what the topic held when it started.
func (f *Follower) Ready(ctx context.Context) error { return f.wait(ctx, f.target) }

// IsReady says, without waiting, whether Ready would return at once.
func (f *Follower) IsReady() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reached(f.target)
}

// CaughtUp asks the brokers how far the topic reaches now and waits until the follower has handled all of that: what was
// acknowledged to a producer before the call has then been handled.
func (f *Follower) CaughtUp(ctx context.Context) error {
	ends, err := f.ends(ctx)
	if err != nil {
		return fmt.Errorf("catching up with topic %s: %w", f.topic, err)
	}
	return f.wait(ctx, ends)
}

// WaitFor waits until the follower has handled the record at this offset of this partition.
func (f *Follower) WaitFor(ctx context.Context, partition int32, offset int64) error {
	return f.wait(ctx, map[int32]int64{partition: offset + 1})
}

func (f *Follower) reached(target map[int32]int64) bool {
	for partition, end := range target {
		if f.position[partition] < end {
			return false
		}
	}
	return true
}

func (f *Follower) wait(ctx context.Context, target map[int32]int64) error {
	for {
		f.mu.Lock()
		ok, moved, last := f.reached(target), f.moved, f.err
		f.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-moved:
		case <-f.done:
			return fmt.Errorf("catching up with topic %s: %w", f.topic, ErrClosed)
		case <-ctx.Done():
			if last != nil {
				return fmt.Errorf("catching up: %w (after %w)", ctx.Err(), last)
			}
			return fmt.Errorf("catching up with topic %s: %w", f.topic, ctx.Err())
		}
	}
}

// Partitions is the topic's number of partitions.
func (f *Follower) Partitions() int32 { return int32(len(f.target)) }

// Positions are the next offsets to handle, by partition.
func (f *Follower) Positions() map[int32]int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.position)
}

// Err is the error of the latest fetch; nil when it succeeded.
func (f *Follower) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// Close stops following and waits for the handler to return. It may be called more than once.
func (f *Follower) Close() {
	f.cancel()
	<-f.done
}
