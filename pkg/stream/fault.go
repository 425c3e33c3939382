package stream

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/schemas"
	"databus/schemas/codec"
)

// ErrFenced is wrapped by the error with which a fenced instance ends.
var ErrFenced = errors.New("fenced")

// ErrPosition is wrapped where state, group offsets and logs do not fit together.
var ErrPosition = errors.New("positions do not fit together")

// ErrOutcomeUnknown is wrapped where Kafka did not say whether a transaction was committed. Starting again finds out.
var ErrOutcomeUnknown = errors.New("outcome of the transaction is unknown")

type poison struct{ reason string }

func (p *poison) Error() string { return p.reason }

// Poison is returned by a handler for a record that can never be processed: it goes to the dead-letter topic, in the same
// transaction, with the reason in a header. The reason must not hold values of the record.
func Poison(reason string) error { return &poison{reason} }

// Headers of a dead letter, beside the original ones.
const (
	HeaderReason    = "databus-dead-reason"
	HeaderTopic     = "databus-dead-topic"
	HeaderPartition = "databus-dead-partition"
	HeaderOffset    = "databus-dead-offset"
	HeaderService   = "databus-dead-service"
)

func isPoison(err error) bool {
	var p *poison
	return errors.As(err, &p) || codec.IsPoison(err)
}

type waiting struct{ error }

func (w *waiting) Unwrap() error { return w.error }

// Wait is returned by a handler for what time or an operator may cure, such as a store that is away: the transaction is
// given up, what came before the record is processed again and committed, the partition waits, Health says why, and the
// record comes again. A handler must not wait itself: its transaction would time out.
func Wait(err error) error { return &waiting{err} }

// isRetryable: the record may be fine once the registry answers, or knows its schema, or what the handler waits for is
// there.
func isRetryable(err error) bool {
	var w *waiting
	return errors.As(err, &w) || errors.Is(err, codec.ErrUnavailable) || errors.Is(err, codec.ErrUnknownSchema)
}

// retry is a retryable error with its place.
type retry struct {
	partition int32
	place     string
	err       error
	topic     string // of the record; "" where it is none
	offset    int64
}

func (e *retry) Error() string { return e.place + ": " + e.err.Error() }
func (e *retry) Unwrap() error { return e.err }

// deadLetter makes the dead letter of a record: its bytes untouched, and why.
func (r *Runtime) deadLetter(rec *kgo.Record, err error) *kgo.Record {
	h := append([]kgo.RecordHeader{}, rec.Headers...)
	add := func(k, v string) { h = append(h, kgo.RecordHeader{Key: k, Value: []byte(v)}) }
	add(HeaderReason, err.Error())
	add(HeaderTopic, rec.Topic)
	add(HeaderPartition, strconv.Itoa(int(rec.Partition)))
	add(HeaderOffset, strconv.FormatInt(rec.Offset, 10))
	add(HeaderService, r.o.Group)
	return &kgo.Record{Topic: rec.Topic + ".dlq", Partition: rec.Partition, Key: rec.Key, Value: rec.Value, Headers: h}
}

// isFenced: another producer or member with our ids has taken over.
func isFenced(err error) bool {
	for _, e := range []*kerr.Error{kerr.ProducerFenced, kerr.InvalidProducerEpoch, kerr.FencedInstanceID, kerr.InvalidProducerIDMapping} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// fatal gives a Kafka error its meaning for an operator.
func (r *Runtime) fatal(doing string, err error) error {
	if isFenced(err) {
		return fmt.Errorf("stream %s: %s: instance %q is %w: another process with the same instance id has taken over, or this one "+
			"stood still for longer than the transaction timeout of %v; run one process per instance id (%w)",
			r.o.Group, doing, r.o.Instance, ErrFenced, r.o.TransactionTimeout, err)
	}
	return fmt.Errorf("stream %s: %s: %w", r.o.Group, doing, err)
}

// partitioner follows the catalogue, except where the partition is given: rows stay with their inputs.
type partitioner struct{ fixed func(topic string) bool }

func (p partitioner) ForTopic(topic string) kgo.TopicPartitioner {
	if p.fixed(topic) {
		return fixedPartition{}
	}
	return cataloguePartition{topic}
}

type fixedPartition struct{}

func (fixedPartition) RequiresConsistency(*kgo.Record) bool { return true }
func (fixedPartition) Partition(rec *kgo.Record, n int) int { return int(rec.Partition) % n }

type cataloguePartition struct{ topic string }

func (cataloguePartition) RequiresConsistency(*kgo.Record) bool { return true }
func (c cataloguePartition) Partition(rec *kgo.Record, n int) int {
	return int(schemas.Partition(c.topic, rec.Key, int32(n)))
}
