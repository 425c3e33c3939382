package stream

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"databus/pkg/state"
	"databus/schemas"
	"databus/schemas/codec"
)

// processed runs an instance over n events and stops it.
func (b *bench) processed(dir string, n int) {
	b.t.Helper()
	b.events(n)
	r := b.start(b.options("0", dir))
	b.caughtUp(r)
	r.finish()
}

func (b *bench) refused(o Options, is error, says ...string) {
	b.t.Helper()
	err := b.start(o).wait()
	if err == nil || is != nil && !errors.Is(err, is) {
		b.t.Fatalf("ended with %v, want %v", err, is)
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			b.t.Errorf("the error does not say %q: %v", s, err)
		}
	}
}

func TestOffsetsThatSomebodyReset(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	dir := t.TempDir()
	b.events(200)
	o := b.options("0", dir)
	o.LeaveOnStop = true // offsets of a group with members cannot be set
	r := b.start(o)
	b.caughtUp(r)
	r.finish()
	var reset kadm.Offsets
	reset.AddOffset(in, 2, 1, -1)
	if err := b.admin.CommitAllOffsets(context.Background(), group, reset); err != nil {
		t.Fatal(err)
	}
	b.refused(b.options("0", dir), ErrPosition, "usage.events, partition 2", "committed offset is 1", "somebody reset")
	b.refused(b.options("0", t.TempDir()), ErrPosition, "usage.events, partition 2", "committed offset is 1", "somebody reset")
}

func TestLostChangelog(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.processed(t.TempDir(), 200)
	if _, err := b.admin.DeleteTopics(context.Background(), schemas.UsageAggregatorChangelog); err != nil {
		t.Fatal(err)
	}
	b.create(parts, schemas.UsageAggregatorChangelog)
	b.refused(b.options("0", t.TempDir()), ErrPosition, "stands for offset none")
}

// Retention that deletes records before they were read stops the partition and says which.
func TestGap(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	dir := t.TempDir()
	b.processed(dir, 200)
	b.events(200)
	ends, err := b.admin.ListEndOffsets(context.Background(), in)
	if err != nil {
		t.Fatal(err)
	}
	cut := kadm.Offsets{}
	o, _ := ends.Lookup(in, 3)
	cut.AddOffset(in, 3, o.Offset, -1)
	if _, err := b.admin.DeleteRecords(context.Background(), cut); err != nil {
		t.Fatal(err)
	}
	b.refused(b.options("0", dir), ErrPosition, "usage.events, partition 3", "retention has deleted")
}

// A local state that the changelog does not reach is dropped and restored.
func TestStateOutsideOfTheChangelog(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	dir := t.TempDir()
	b.processed(dir, 200)
	db := b.state("0", dir, false)
	for p := range int32(parts) {
		pos, _, err := db.Position(p)
		if err != nil {
			t.Fatal(err)
		}
		pos.Logs[schemas.UsageAggregatorChangelog] += 1000
		batch := db.NewBatch()
		if err := errors.Join(batch.Set(p, "sums", []byte("stray"), []byte("1")), batch.SetPosition(p, pos), batch.Commit(), batch.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	b.processed(dir, 200)
	b.check(map[string]string{"0": dir})
}

func TestForeignState(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	dir := t.TempDir()
	b.processed(dir, 50)
	b.refused(b.options("1", dir), state.ErrForeign, `instance "0"`)
	if err := os.WriteFile(filepath.Join(dir, "STATE"), []byte(`{"format":99,"service":"usage-aggregator","instance":"0"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	b.refused(b.options("0", dir), state.ErrForeign, "newer version")
}

func TestTopicsThatDoNotFit(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	if _, err := b.admin.DeleteTopics(context.Background(), table); err != nil {
		t.Fatal(err)
	}
	b.refused(b.options("0", t.TempDir()), nil, table, "databus topics apply")
	b.create(parts+1, table)
	b.refused(b.options("0", t.TempDir()), nil, "equal numbers of partitions", table+": 5")
}

// An open transaction of somebody who died, in front of what was committed, neither hides it from the restore nor ends
// it early.
func TestRestoreBehindAnOpenTransaction(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ghost, err := kgo.NewClient(append(b.opts, kgo.TransactionalID("ghost"), kgo.TransactionTimeout(2*time.Second), kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		t.Fatal(err)
	}
	defer ghost.Close()
	if err := ghost.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	for p := range int32(parts) {
		if err := ghost.ProduceSync(context.Background(), &kgo.Record{Topic: schemas.UsageAggregatorChangelog, Partition: p, Key: []byte("x"), Value: []byte("never committed")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	b.processed(t.TempDir(), 200)
	b.processed(t.TempDir(), 200) // restores from nothing, behind the ghost's first record
	dir := t.TempDir()
	b.processed(dir, 200)
	b.check(map[string]string{"0": dir})
}

// A second process with the same instance id takes over; the first one ends and says why.
func TestZombie(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	dirs := map[string]string{"0": t.TempDir()}
	b.events(200)
	old := b.start(b.options("0", t.TempDir()))
	b.caughtUp(old)
	young := b.start(b.options("0", dirs["0"]))
	b.events(200)
	err := old.wait()
	if !errors.Is(err, ErrFenced) || !strings.Contains(err.Error(), `instance "0" is fenced`) {
		t.Fatalf("the old instance ended with %v", err)
	}
	b.events(200)
	b.caughtUp(young)
	young.finish()
	b.check(dirs)
}

// Answers of the broker that make a transaction fail, each injected a few times.
func TestRefusedTransactions(t *testing.T) {
	for _, c := range []struct {
		name string
		key  kmsg.Key
		fail func(kmsg.Request) (kmsg.Response, error)
		ends error // what Run ends with; nil means it goes on
	}{
		{"the group refuses the offsets", kmsg.TxnOffsetCommit, func(req kmsg.Request) (kmsg.Response, error) {
			resp := req.ResponseKind().(*kmsg.TxnOffsetCommitResponse)
			for _, t := range req.(*kmsg.TxnOffsetCommitRequest).Topics {
				rt := kmsg.TxnOffsetCommitResponseTopic{Topic: t.Topic, TopicID: t.TopicID}
				for _, p := range t.Partitions {
					rt.Partitions = append(rt.Partitions, kmsg.TxnOffsetCommitResponseTopicPartition{Partition: p.Partition, ErrorCode: kerr.RebalanceInProgress.Code})
				}
				resp.Topics = append(resp.Topics, rt)
			}
			return resp, nil
		}, nil},
		{"a produce request fails", kmsg.Produce, func(req kmsg.Request) (kmsg.Response, error) {
			p := req.(*kmsg.ProduceRequest)
			if p.TransactionID == nil {
				return nil, nil
			}
			resp := req.ResponseKind().(*kmsg.ProduceResponse)
			for _, t := range p.Topics {
				rt := kmsg.ProduceResponseTopic{Topic: t.Topic, TopicID: t.TopicID}
				for _, p := range t.Partitions {
					rt.Partitions = append(rt.Partitions, kmsg.ProduceResponseTopicPartition{Partition: p.Partition, ErrorCode: kerr.TransactionAbortable.Code, BaseOffset: -1})
				}
				resp.Topics = append(resp.Topics, rt)
			}
			return resp, nil
		}, nil},
		{"the end is answered by a lost connection", kmsg.EndTxn, func(kmsg.Request) (kmsg.Response, error) {
			return nil, errors.New("connection lost")
		}, ErrOutcomeUnknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			dir := t.TempDir()
			b.processed(dir, 100)
			var left atomic.Int32
			left.Store(3)
			b.stack.Broker.Cluster().ControlKey(c.key.Int16(), func(req kmsg.Request) (kmsg.Response, error, bool) {
				b.stack.Broker.Cluster().KeepControl()
				if left.Load() <= 0 {
					return nil, nil, false
				}
				resp, err := c.fail(req)
				if resp == nil && err == nil {
					return nil, nil, false
				}
				left.Add(-1)
				return resp, err, true
			})
			b.events(100)
			o := b.options("0", dir)
			o.Kafka = append(o.Kafka, kgo.RequestRetries(1))
			r := b.start(o)
			if c.ends != nil {
				if err := r.wait(); !errors.Is(err, c.ends) {
					t.Fatalf("ended with %v", err)
				}
				left.Store(0)
				r = b.start(b.options("0", dir))
			}
			b.events(100)
			b.caughtUp(r)
			if left.Load() > 0 {
				t.Error("nothing was injected")
			}
			r.finish()
			b.check(map[string]string{"0": dir})
		})
	}
}

// A partition that has lag and does not move makes the instance unready, although the others move.
func TestStuck(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	o := b.options("0", t.TempDir())
	o.StuckAfter = 300 * time.Millisecond
	o.Handlers = func(p int32) Handlers {
		h := summing(p)
		sum := h.Inputs[in]
		h.Inputs[in] = func(tx *Tx, rec *kgo.Record) error {
			if tx.Partition() == 2 {
				return fmt.Errorf("decoding: %w", codec.ErrUnavailable)
			}
			return sum(tx, rec)
		}
		return h
	}
	r := b.start(o)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		b.events(20)
		r.mu.Lock()
		stuck := r.stuck(time.Now())
		r.mu.Unlock()
		if strings.Contains(stuck, "usage.events, partition 2") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("nothing is stuck: %q", stuck)
		}
	}
	if ready, reason := r.Ready(); ready {
		t.Errorf("ready: %s", reason)
	}
	r.finish()
}

// Rows that are older than half of the changelog's tombstone retention are not trusted: a deletion may be forgotten.
func TestOldStateIsRestoredFromNothing(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	dir := t.TempDir()
	b.processed(dir, 300)
	b.events(300)
	o := b.options("0", dir)
	o.Crash = func(p Point) error {
		if p == BeforeState {
			return errCrash // Pebble stays behind the changelog
		}
		return nil
	}
	if err := b.start(o).wait(); !errors.Is(err, errCrash) {
		t.Fatalf("ended with %v", err)
	}
	db := b.state("0", dir, false)
	for p := range int32(parts) { // a row whose deletion the changelog no longer shows
		batch := db.NewBatch()
		if err := errors.Join(batch.Set(p, "sums", []byte("forgotten"), []byte("1")), batch.Commit(), batch.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	o = b.options("0", dir)
	o.TombstoneRetention = time.Nanosecond
	r := b.start(o)
	b.caughtUp(r)
	r.finish()
	b.check(map[string]string{"0": dir})
}
