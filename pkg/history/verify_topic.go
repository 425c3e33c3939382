package history

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// bounds are the offsets that a partition of the topic holds: [start, end), what open transactions hide not counted.
type bounds struct{ start, end int64 }

// topics asks for the bounds of the partitions. A topic or partition that no longer exists has none.
func (v *Verifier) topics(ctx context.Context, parts []place) (map[place]*bounds, error) {
	found := map[place]*bounds{}
	if v.Kafka == nil {
		return found, nil
	}
	client, err := kgo.NewClient(v.Kafka...)
	if err != nil {
		return nil, fmt.Errorf("configuring the Kafka client: %w", err)
	}
	defer client.Close()
	adm := kadm.NewClient(client)
	exists, err := adm.ListTopics(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing the topics: %w", err)
	}
	var names []string
	for _, at := range parts {
		if exists.Has(at.topic) && !slices.Contains(names, at.topic) {
			names = append(names, at.topic)
		}
	}
	if len(names) == 0 {
		return found, nil
	}
	starts, err := adm.ListStartOffsets(ctx, names...)
	if err = errors.Join(err, starts.Error()); err != nil {
		return nil, fmt.Errorf("asking for start offsets: %w", err)
	}
	ends, err := adm.ListCommittedOffsets(ctx, names...)
	if err = errors.Join(err, ends.Error()); err != nil {
		return nil, fmt.Errorf("asking for the last stable offsets: %w", err)
	}
	for _, at := range parts {
		start, ok := starts.Lookup(at.topic, at.partition)
		end, ok2 := ends.Lookup(at.topic, at.partition)
		if ok && ok2 {
			found[at] = &bounds{start.Offset, end.Offset}
		}
	}
	return found, nil
}

// committed asks for the archiver's offsets.
func (v *Verifier) committed(ctx context.Context) (map[place]int64, error) {
	found := map[place]int64{}
	if v.Kafka == nil || v.Group == "" {
		return found, nil
	}
	client, err := kgo.NewClient(v.Kafka...)
	if err != nil {
		return nil, fmt.Errorf("configuring the Kafka client: %w", err)
	}
	defer client.Close()
	offsets, err := kadm.NewClient(client).FetchOffsets(ctx, v.Group)
	if err = errors.Join(err, offsets.Error()); err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
		return nil, fmt.Errorf("asking for the offsets of group %s: %w", v.Group, err)
	}
	offsets.Each(func(o kadm.OffsetResponse) {
		if o.At >= 0 && (v.Topic == "" || o.Topic == v.Topic) {
			found[place{o.Topic, o.Partition}] = o.At
		}
	})
	return found, nil
}

// tail reads the offsets of a partition's committed records, from somewhere on.
type tail struct {
	client   *kgo.Client
	topic    string
	from     int64 // the first offset that is read
	end      int64
	next     int64 // everything below was read
	buffer   []*kgo.Record
	patience time.Duration
	gone     bool
}

// goneError: the topic has no longer, or never had, the records of a range.
type goneError struct{ problem string }

func (e *goneError) Error() string { return "the topic does not have the range: " + e.problem }

// begin opens the topic at the partition's first file, or later where retention took records; what comes before the file
// and is in none is a problem, unless the archive's retention let it go.
func (p *part) begin(ctx context.Context, f *file, b *bounds) (*tail, error) {
	from := b.start
	if f.object.First <= b.start {
		// Only whole files can be counted.
		i := slices.IndexFunc(p.files, func(f *file) bool { return f.object.First >= b.start })
		if i < 0 {
			return nil, nil
		}
		from = p.files[i].object.First
	}
	if from >= b.end {
		from = b.end
	}
	client, err := kgo.NewClient(append(slices.Clone(p.v.Kafka),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{p.out.Topic: {p.out.Partition: kgo.NewOffset().At(from)}}),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(), kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.FetchMaxBytes(8<<20), kgo.FetchMaxPartitionBytes(8<<20))...)
	if err != nil {
		return nil, fmt.Errorf("configuring the Kafka client: %w", err)
	}
	t := &tail{client: client, topic: p.out.Topic, from: from, next: from, end: b.end, patience: p.v.Patience}
	if from >= f.object.First {
		return t, nil
	}
	n, first := 0, int64(-1)
	err = t.until(ctx, min(f.object.First, b.end), func(offset int64) {
		if n++; first < 0 {
			first = offset
		}
	})
	var gone *goneError
	if err != nil && !errors.As(err, &gone) {
		t.close()
		return nil, err
	}
	if n > 0 && p.out.Left == 0 { // else the archive's retention may be shorter than the topic's, and a gap behind it is named already
		p.problem(first, "", fmt.Sprintf("%d records of the topic below offset %d are in no object", n, f.object.First),
			"bring the first object back from the bucket's versions or a backup; if the archive was begun later on purpose, there is nothing to do")
	}
	return t, nil
}

func (t *tail) close() { t.client.Close() }

// holds tells whether a range that begins at first can be counted.
func (t *tail) holds(first int64) bool { return !t.gone && first >= t.from }

// until calls fn with the offset of every committed record below next that was not read yet.
func (t *tail) until(ctx context.Context, next int64, fn func(int64)) error {
	if next > t.end {
		return &goneError{fmt.Sprintf("the topic ends at offset %d, the object at %d", t.end, next)}
	}
	idle := time.Now()
	for t.next < next {
		for len(t.buffer) > 0 {
			rec := t.buffer[0]
			if rec.Offset >= next {
				t.next = next
				return nil
			}
			t.buffer[0] = nil
			t.buffer = t.buffer[1:]
			if t.next = rec.Offset + 1; !rec.Attrs.IsControl() {
				fn(rec.Offset)
			}
		}
		if t.next >= next {
			return nil
		}
		poll, cancel := context.WithTimeout(ctx, time.Second)
		fetches := t.client.PollFetches(poll)
		cancel()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		for _, e := range fetches.Errors() {
			switch {
			case errors.Is(e.Err, context.DeadlineExceeded):
			case errors.Is(e.Err, kerr.OffsetOutOfRange):
				t.gone = true
				return &goneError{}
			default:
				return fmt.Errorf("reading %s/%d: %w", t.topic, e.Partition, e.Err)
			}
		}
		if t.buffer = fetches.Records(); len(t.buffer) > 0 {
			idle = time.Now()
		} else if time.Since(idle) > t.patience {
			return fmt.Errorf("reading %s: nothing came for %s at offset %d of %d", t.topic, t.patience, t.next, next)
		}
	}
	return nil
}
