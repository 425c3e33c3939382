package archiver

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"databus/pkg/archive"
	"databus/schemas/event"
)

// fatal ends Run: the instance is fenced, or does not know what became of a transaction.
type fatal struct{ err error }

func (e *fatal) Error() string { return e.err.Error() }
func (e *fatal) Unwrap() error { return e.err }

// commit writes the manifest event and the dead letters of the range that is in the bucket, and the partition's
// offset, in one transaction. See docs/adr/0007-archiver-commit.md.
func (a *Archiver) commit(ctx context.Context, p *partition) error {
	o := p.object
	value, err := a.manifest.Encode(ctx, manifest(o))
	if err != nil {
		return fmt.Errorf("encoding the manifest event: %w", err)
	}
	// From here on a cancelled context would leave the transaction's outcome open.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*a.TransactionTimeout)
	defer cancel()
	if err := a.client.BeginTransaction(); err != nil {
		return &fatal{fmt.Errorf("beginning the transaction: %w", err)}
	}
	if err := a.transact(ctx, p, value); err != nil {
		var c *crash
		if errors.As(err, &c) {
			return err
		}
		if abortErr := a.abort(ctx); abortErr != nil {
			return &fatal{fmt.Errorf("%w; aborting the transaction: %w", err, abortErr)}
		}
		if isFenced(err) {
			return &fatal{fmt.Errorf("another instance has taken over: %w", err)}
		}
		return fmt.Errorf("committing [%d, %d): %w", o.footer.First, o.footer.Next, err)
	}
	if err := a.client.EndTransaction(ctx, kgo.TryCommit); err != nil {
		return &fatal{fmt.Errorf("committing [%d, %d) of %s: the outcome is unknown and the next start reads it: %w",
			o.footer.First, o.footer.Next, p.name(), err)}
	}
	if err := a.step(Committed, p); err != nil {
		return err
	}
	a.metrics.count(o)
	a.Log.Info("archived", "topic", p.topic, "partition", p.id, "first", o.footer.First, "next", o.footer.Next,
		"rows", o.footer.Rows, "dead_letters", o.footer.DeadLetters, "bytes", o.size, "object", o.key)
	p.schemaID = o.footer.SchemaID
	p.succeeded()
	return p.begin(o.footer.Next)
}

func (a *Archiver) transact(ctx context.Context, p *partition, value []byte) error {
	if err := a.send(ctx, p, value); err != nil {
		return err
	}
	f := p.object.footer
	if err := a.sendOffset(ctx, p, f.Next, metadata(f.SchemaID)); err != nil {
		return err
	}
	return a.step(Transacting, p)
}

// sendOffset adds one partition's offset to the open transaction, as the member and in the generation that the
// partition was assigned to: the group's coordinator refuses a zombie's.
func (a *Archiver) sendOffset(ctx context.Context, p *partition, next int64, metadata string) error {
	a.mu.Lock()
	member, generation := a.member, a.generation
	owned := a.partitions[tp{p.topic, p.id}] == p
	a.mu.Unlock()
	// Without a member and a generation the coordinator would not check anything.
	if now, current := a.client.GroupMetadata(); !owned || member == "" || generation < 0 || now != member || current != generation {
		return fmt.Errorf("sending the offset: %w", kerr.IllegalGeneration)
	}
	producer, epoch, err := a.client.ProducerID(ctx)
	if err != nil {
		return fmt.Errorf("sending the offset: %w", err)
	}
	add := kmsg.NewPtrAddOffsetsToTxnRequest()
	add.TransactionalID, add.ProducerID, add.ProducerEpoch, add.Group = a.TransactionalID, producer, epoch, Name
	err = retryConcurrent(ctx, func() error {
		resp, err := add.RequestWith(ctx, a.client)
		if err != nil {
			return err
		}
		return kerr.ErrorForCode(resp.ErrorCode)
	})
	if err != nil {
		return fmt.Errorf("adding the group to the transaction: %w", err)
	}
	req := kmsg.NewPtrTxnOffsetCommitRequest()
	req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Group = a.TransactionalID, producer, epoch, Name
	req.MemberID, req.Generation = member, generation
	if a.InstanceID != "" {
		req.InstanceID = &a.InstanceID
	}
	part := kmsg.NewTxnOffsetCommitRequestTopicPartition()
	part.Partition, part.Offset, part.Metadata = p.id, next, &metadata
	topic := kmsg.NewTxnOffsetCommitRequestTopic()
	topic.Topic = p.topic
	topic.Partitions = append(topic.Partitions, part)
	req.Topics = append(req.Topics, topic)
	err = retryConcurrent(ctx, func() error {
		resp, err := req.RequestWith(ctx, a.client)
		if err != nil {
			return err
		}
		answered := false
		for _, t := range resp.Topics {
			for _, part := range t.Partitions {
				answered = answered || t.Topic == p.topic && part.Partition == p.id
				if err := kerr.ErrorForCode(part.ErrorCode); err != nil {
					return err
				}
			}
		}
		if !answered {
			return errors.New("the coordinator's answer lacks the partition")
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("sending the offset: %w", err)
	}
	return nil
}

// retryConcurrent asks again while the broker is still busy with this producer's last transaction.
func retryConcurrent(ctx context.Context, fn func() error) error {
	for {
		err := fn()
		if !errors.Is(err, kerr.ConcurrentTransactions) && !errors.Is(err, kerr.CoordinatorLoadInProgress) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (a *Archiver) abort(ctx context.Context) error {
	if err := a.client.AbortBufferedRecords(ctx); err != nil {
		return err
	}
	return a.client.EndTransaction(ctx, kgo.TryAbort)
}

// commitFirst commits the offset at which a partition begins before an object is named by it: otherwise the next owner
// could begin elsewhere, because the topic's start moves.
func (a *Archiver) commitFirst(ctx context.Context, p *partition) error {
	var failed error
	offsets := map[string]map[int32]kgo.EpochOffset{p.topic: {p.id: {Epoch: -1, Offset: p.first}}}
	a.client.CommitOffsetsSync(ctx, offsets, func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
		failed = err
		if resp == nil {
			return
		}
		for _, t := range resp.Topics {
			for _, part := range t.Partitions {
				failed = errors.Join(failed, kerr.ErrorForCode(part.ErrorCode))
			}
		}
	})
	if failed != nil {
		return fmt.Errorf("committing the partition's first offset: %w", failed)
	}
	p.uncommitted = false
	return nil
}

// isFenced: a producer with this instance's transactional id, or a member with its id, has taken over.
func isFenced(err error) bool {
	for _, e := range []*kerr.Error{kerr.ProducerFenced, kerr.InvalidProducerEpoch, kerr.InvalidProducerIDMapping, kerr.FencedInstanceID} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func manifest(o *object) *event.ArchiveFile {
	f := o.footer
	file := &event.ArchiveFile{
		Topic: f.Topic, Partition: f.Partition, Object: o.key, First: f.First, Next: f.Next, Rows: f.Rows, DeadLetters: f.DeadLetters,
		Bytes: o.size, Sha256: o.sha, SchemaID: int32(f.SchemaID), EncoderVersion: f.EncoderVersion,
	}
	if f.Rows > 0 {
		least, greatest := time.UnixMilli(f.MinTimestamp).UTC(), time.UnixMilli(f.MaxTimestamp).UTC()
		file.MinTimestamp, file.MaxTimestamp = &least, &greatest
	}
	return file
}

// deadLetter keeps the record's bytes and says in headers where it was and what was wrong.
func deadLetter(p *partition, rec *archive.Record, reason string) *kgo.Record {
	headers := make([]kgo.RecordHeader, 0, len(rec.Headers)+5)
	for _, h := range rec.Headers {
		headers = append(headers, kgo.RecordHeader{Key: h.Key, Value: clone(h.Value)})
	}
	add := func(k, v string) { headers = append(headers, kgo.RecordHeader{Key: k, Value: []byte(v)}) }
	add("databus-dead-reason", reason)
	add("databus-dead-topic", p.topic)
	add("databus-dead-partition", strconv.Itoa(int(p.id)))
	add("databus-dead-offset", strconv.FormatInt(rec.Offset, 10))
	add("databus-dead-service", Name)
	return &kgo.Record{
		Topic: deadLetterTopic(p.topic), Key: clone(rec.Key), Value: clone(rec.Value), Headers: headers,
		Timestamp: time.UnixMilli(rec.Timestamp),
	}
}

func clone(b []byte) []byte {
	if b == nil {
		return nil
	}
	return append([]byte{}, b...)
}
