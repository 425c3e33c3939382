package job

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// ledger is a worker's account of one partition of the tasks topic: which tasks have reached their end, and how often
// those that have not were started. The position to commit is the first offset that has not reached its end. The counts
// are its metadata, "starts <offset>:<n> ...", because that is the only place that the next owner of the partition reads
// anyway; so a worker that dies with a task leaves a trace of it.
type ledger struct {
	mu       sync.Mutex
	marks    marks
	position int64 // -1: nothing delivered yet
	starts   map[int64]int
	commit   func(position int64, metadata string) // called with mu held, so that commits keep their order
}

func newLedger(starts map[int64]int, commit func(int64, string)) *ledger {
	if starts == nil {
		starts = map[int64]int{}
	}
	return &ledger{marks: marks{done: map[int64]bool{}}, position: -1, starts: starts, commit: commit}
}

func (l *ledger) deliver(offset int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.position < 0 {
		l.position = offset
	}
	l.marks.deliver(offset)
}

// started says how often the task at offset has been started before.
func (l *ledger) started(offset int64) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.starts[offset]
}

// count changes the number of starts of the task at offset, and commits that.
func (l *ledger) count(offset int64, by int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.starts[offset] += by; l.starts[offset] <= 0 {
		delete(l.starts, offset)
	}
	l.commit(l.position, formatStarts(l.starts))
}

// finish marks the end of the task at offset, and commits if that moves the position.
func (l *ledger) finish(offset int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.starts, offset)
	l.marks.mark(offset, func(next int64) {
		l.position = next
		maps.DeleteFunc(l.starts, func(o int64, _ int) bool { return o < next })
		l.commit(next, formatStarts(l.starts))
	})
}

// maxStarts bounds the metadata far below the broker's 4,096 bytes.
const maxStarts = 100

func formatStarts(starts map[int64]int) string {
	if len(starts) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString("starts")
	for i, o := range slices.Sorted(maps.Keys(starts)) {
		if i == maxStarts {
			break
		}
		b.WriteString(" " + strconv.FormatInt(o, 10) + ":" + strconv.Itoa(starts[o]))
	}
	return b.String()
}

// parseStarts ignores anything else, such as the metadata of an offset that an operator has set.
func parseStarts(metadata *string) map[int64]int {
	starts := map[int64]int{}
	if metadata == nil {
		return starts
	}
	words := strings.Fields(*metadata)
	if len(words) == 0 || words[0] != "starts" || len(words) > maxStarts+1 {
		return starts
	}
	for _, word := range words[1:] {
		o, n, _ := strings.Cut(word, ":")
		offset, err1 := strconv.ParseInt(o, 10, 64)
		count, err2 := strconv.Atoi(n)
		if err1 == nil && err2 == nil && offset >= 0 && count > 0 {
			starts[offset] = count
		}
	}
	return starts
}

// offsetsFetched reads the counts that the previous owners left.
func (w *Worker) offsetsFetched(_ context.Context, _ *kgo.Client, resp *kmsg.OffsetFetchResponse) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	take := func(partition int32, metadata *string) {
		if r := w.runners[partition]; r != nil {
			r.ledger.mu.Lock()
			defer r.ledger.mu.Unlock()
			r.ledger.starts = parseStarts(metadata)
		}
	}
	for _, g := range resp.Groups {
		for _, t := range g.Topics {
			for _, p := range t.Partitions {
				take(p.Partition, p.Metadata)
			}
		}
	}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			take(p.Partition, p.Metadata)
		}
	}
	return nil
}

// commitPosition commits with metadata. A failure is left to the partition's next commit: its price is a task that is
// delivered again and then skipped.
func (w *Worker) commitPosition(ctx context.Context, partition int32, position int64, metadata string) {
	var err error
	set := kgo.PreCommitFnContext(ctx, func(req *kmsg.OffsetCommitRequest) error {
		for i := range req.Topics {
			for j := range req.Topics[i].Partitions {
				req.Topics[i].Partitions[j].Metadata = &metadata
			}
		}
		return nil
	})
	w.client.CommitOffsetsSync(set, map[string]map[int32]kgo.EpochOffset{
		w.kind.Topics.Tasks: {partition: {Epoch: -1, Offset: position}},
	}, func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, e error) {
		if err = e; err != nil {
			return
		}
		for _, t := range resp.Topics {
			for _, p := range t.Partitions {
				if e := kerr.ErrorForCode(p.ErrorCode); e != nil {
					err = e
				}
			}
		}
	})
	if err != nil {
		w.log.Warn("committing a position of the tasks", "partition", partition, "position", position, "error", err)
	}
}
