package job

import (
	"context"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// startCount says how often the task at an offset has been started without reaching an end. It is kept as the metadata
// of the group's committed offset, "starts:<offset>:<n>", because that is the only place that the next owner of the
// partition reads anyway and that a dying worker cannot forget to write.
type startCount struct {
	offset int64
	n      int
}

func (s startCount) metadata() *string {
	if s.n == 0 {
		return nil
	}
	m := "starts:" + strconv.FormatInt(s.offset, 10) + ":" + strconv.Itoa(s.n)
	return &m
}

// parseStarts returns the zero count for anything else, such as an offset that an operator has set.
func parseStarts(metadata *string) startCount {
	if metadata == nil {
		return startCount{}
	}
	parts := strings.Split(*metadata, ":")
	if len(parts) != 3 || parts[0] != "starts" {
		return startCount{}
	}
	offset, err := strconv.ParseInt(parts[1], 10, 64)
	if err != nil {
		return startCount{}
	}
	n, err := strconv.Atoi(parts[2])
	if err != nil || n < 0 {
		return startCount{}
	}
	return startCount{offset, n}
}

// offsetsFetched reads the counts that the previous owners left.
func (w *Worker) offsetsFetched(_ context.Context, _ *kgo.Client, resp *kmsg.OffsetFetchResponse) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, g := range resp.Groups {
		for _, t := range g.Topics {
			for _, p := range t.Partitions {
				w.starts[p.Partition] = parseStarts(p.Metadata)
			}
		}
	}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			w.starts[p.Partition] = parseStarts(p.Metadata)
		}
	}
	return nil
}

// started returns how often the task of rec has been started before.
func (w *Worker) started(rec *kgo.Record) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s := w.starts[rec.Partition]; s.offset == rec.Offset {
		return s.n
	}
	return 0
}

func commitError(resp *kmsg.OffsetCommitResponse) error {
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				return err
			}
		}
	}
	return nil
}
