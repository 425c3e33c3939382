package catchup_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/graph"
	"databus/pkg/history/historytest"
	"databus/pkg/identity"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
	"databus/services/catchup"
)

const (
	version = "v2"
	group   = "ingest.applier.v2"
)

// rig is a world with catch-up at work, and a version that was loaded up to where the log ended then.
type rig struct {
	*historytest.World
	t        *testing.T
	running  *historytest.Running
	frontier []int64
}

func newRig(t *testing.T, seed uint64) *rig {
	t.Helper()
	r := &rig{World: historytest.New(t, seed), t: t}
	r.Write(120)
	r.frontier = r.Ends()
	r.Apply(version, graph.Genesis(), r.frontier)
	v := event.DatabaseVersion{Version: version, Keyspace: version, GraphVersion: graph.GenesisVersion, ApplierGroup: group, State: event.DatabaseStateLoaded, JobID: "rebuild"}
	for p, offset := range r.frontier {
		v.Frontier = append(v.Frontier, event.FrontierPosition{Partition: int32(p), Offset: offset})
	}
	r.Announce(v)
	r.start()
	return r
}

func (r *rig) start() {
	r.t.Helper()
	r.running = r.Start(catchup.Definition().Service(), map[string]any{"batch_records": 7, "commit": "10ms", "attempts": 3})
}

func (r *rig) job(id, database string) *historytest.Events[event.CatchupEvent] {
	r.t.Helper()
	historytest.Send(r.World, schemas.CatchupRequests, id, &event.CatchupRequest{JobID: id, DatabaseVersion: database, Until: event.CatchupUntilTrigger})
	return historytest.Listen[event.CatchupEvent](r.World, schemas.CatchupEvents, id)
}

func (r *rig) end(events *historytest.Events[event.CatchupEvent], want event.CatchupEventKind) event.CatchupEvent {
	r.t.Helper()
	e := events.Until(r.World, "the job ends", func(e event.CatchupEvent) bool {
		switch e.Kind {
		case event.CatchupEventKindCompleted, event.CatchupEventKindFailed, event.CatchupEventKindCancelled:
			return true
		}
		return false
	})
	if e.Kind != want {
		r.t.Fatalf("the job ended with %s (%s), want %s", e.Kind, e.Error, want)
	}
	return e
}

// covers checks a completed event: its ranges, that every committed record in them is counted once, and where the
// applier group stands.
func (r *rig) covers(e event.CatchupEvent, from, to []int64) (sum event.CatchupProgress) {
	r.t.Helper()
	committed := make([]int64, len(to))
	r.Log(to, func(rec *kgo.Record) {
		if rec.Offset >= from[rec.Partition] {
			committed[rec.Partition]++
		}
	})
	offsets, err := r.Admin.FetchOffsetsForTopics(r.t.Context(), group, schemas.DatabusRecords)
	if err != nil {
		r.t.Fatal(err)
	}
	if len(e.Partitions) != len(to) {
		r.t.Fatalf("event %+v, want %d partitions", e, len(to))
	}
	for i, p := range e.Partitions {
		at, _ := offsets.Lookup(schemas.DatabusRecords, p.Partition)
		if int(p.Partition) != i || p.From != from[i] || p.To != to[i] || p.Applied+p.Superseded+p.Repeats+p.Dead != committed[i] || at.At != to[i] {
			r.t.Errorf("partition %d: %+v, want [%d, %d) with %d records; the group is at %d", i, p, from[i], to[i], committed[i], at.At)
		}
		sum.Applied += p.Applied
		sum.Superseded += p.Superseded
		sum.Repeats += p.Repeats
		sum.Dead += p.Dead
	}
	return sum
}

func (r *rig) state(want event.DatabaseState) {
	r.t.Helper()
	if v, _ := r.Database(version); v.State != want {
		r.t.Errorf("version %s is %s, want %s", version, v.State, want)
	}
}

func TestUpToTheTrigger(t *testing.T) {
	r := newRig(t, 1)
	r.Write(150)
	trigger := r.Ends()

	// The first batch waits until there is more behind the trigger.
	planned, written := make(chan struct{}, 100), make(chan struct{})
	r.Stores.Before(func(ctx context.Context, _ string, _ []identity.Change) error {
		planned <- struct{}{}
		<-written
		return nil
	})
	events := r.job("first", version)
	<-planned
	r.Write(80)
	close(written)
	e := r.end(events, event.CatchupEventKindCompleted)
	if sum := r.covers(e, r.frontier, trigger); sum.Applied == 0 || sum.Repeats == 0 || sum.Superseded != 0 || sum.Dead != 0 {
		t.Errorf("counted %+v", sum)
	}
	r.state(event.DatabaseStateStandby)
	r.Same(r.Apply("model", graph.Genesis(), trigger), r.Store(version))

	// Again, while no applier follows it: from where the first one ended.
	all := r.Ends()
	e = r.end(r.job("second", version), event.CatchupEventKindCompleted)
	r.covers(e, trigger, all)
	r.Same(r.Apply("model", graph.Genesis(), all), r.Store(version))
	e = r.end(r.job("third", version), event.CatchupEventKindCompleted)
	if sum := r.covers(e, all, all); sum != (event.CatchupProgress{}) {
		t.Errorf("with nothing to do it counted %+v", sum)
	}
}

// A transaction that is open at the trigger belongs to the range, and is waited for. Bytes that nobody can decode are dead.
func TestOpenTransactionAndGarbage(t *testing.T) {
	r := newRig(t, 2)
	serde := codec.For[event.DatabusRecord](r.Codec, schemas.DatabusRecords)
	res, err := r.Resolver.Resolve(t.Context(), graph.Genesis(), &identity.Request{
		Account: "account-0", RequestID: "late", Kind: event.RequestKindUpsert, Record: event.CustomerRecord{RecordID: "in-a-transaction"},
	})
	if err != nil {
		t.Fatal(err)
	}
	value, err := serde.Encode(t.Context(), &res.Record)
	if err != nil {
		t.Fatal(err)
	}
	partition := schemas.Partition(schemas.DatabusRecords, []byte(res.Key()), int32(len(r.frontier)))
	client, err := kgo.NewClient(kgo.SeedBrokers(r.Config.Kafka.Brokers...), kgo.TransactionalID("open"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	for _, v := range [][]byte{value, {0, 0, 0, 0, 1, 255, 255}, value[:len(value)-3]} {
		rec := &kgo.Record{Topic: schemas.DatabusRecords, Partition: partition, Key: []byte(res.Key()), Value: v}
		if err := client.ProduceSync(t.Context(), rec).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	trigger := r.Ends()
	events := r.job("open", version)
	events.Until(r.World, "all other partitions are done", func(e event.CatchupEvent) bool { return len(e.Partitions) == len(trigger)-1 })
	time.Sleep(300 * time.Millisecond)
	if last := events.All()[len(events.All())-1]; last.Kind != event.CatchupEventKindTaskDone || len(last.Partitions) != len(trigger)-1 {
		t.Fatalf("with the transaction open: %+v", last)
	}
	if err := client.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	e := r.end(events, event.CatchupEventKindCompleted)
	if sum := r.covers(e, r.frontier, trigger); sum.Applied != 1 || sum.Dead != 2 {
		t.Errorf("counted %+v, want 1 applied and 2 dead", sum)
	}
	if _, ok, err := r.Store(version).Get(t.Context(), "account-0", res.Record.RecordKey); !ok || err != nil {
		t.Errorf("the record in the transaction: %v %v", ok, err)
	}
}

func TestStoppedInTheMiddle(t *testing.T) {
	r := newRig(t, 3)
	r.Write(300)
	trigger := r.Ends()
	var applied atomic.Int32
	held := make(chan struct{}, 100)
	r.Stores.Before(func(ctx context.Context, _ string, _ []identity.Change) error {
		if applied.Add(1) <= 6 {
			return nil
		}
		held <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	})
	events := r.job("stopped", version)
	<-held
	r.running.Stop()
	r.Write(40) // after the trigger
	r.Stores.Before(func(context.Context, string, []identity.Change) error {
		if n := applied.Add(1); n%9 == 0 && n < 40 {
			return errors.New("the store is away for a moment")
		}
		return nil
	})
	r.start()
	e := r.end(events, event.CatchupEventKindCompleted)
	r.Stores.Before(nil)
	r.covers(e, r.frontier, trigger)
	r.Same(r.Apply("model", graph.Genesis(), trigger), r.Store(version))
	r.state(event.DatabaseStateStandby)
}

// What retention has dropped comes from the archive; what is not there either is an error that names it.
func TestBehindRetention(t *testing.T) {
	r := newRig(t, 4)
	r.Write(200)
	end := r.Ends()
	var gone event.ArchiveFile
	r.Archive(make([]int64, len(end)), end, func(f event.ArchiveFile) bool {
		if gone.Object == "" && f.First > r.frontier[f.Partition] && f.Next < end[f.Partition] {
			gone = f
			return true
		}
		return false
	})
	if gone.Object == "" {
		t.Fatal("no file lies behind the frontier: the test does not test")
	}
	model := r.Apply("model", graph.Genesis(), end)
	expected := 0
	r.Log(end, func(rec *kgo.Record) {
		if rec.Offset >= r.frontier[rec.Partition] {
			expected++
		}
	})
	drop := kadm.Offsets{}
	for p, e := range end {
		if e > 2 {
			drop.Add(kadm.Offset{Topic: schemas.DatabusRecords, Partition: int32(p), At: e - 2, LeaderEpoch: -1})
		}
	}
	if _, err := r.Admin.DeleteRecords(t.Context(), drop); err != nil {
		t.Fatal(err)
	}
	e := r.end(r.job("gap", version), event.CatchupEventKindFailed)
	want := fmt.Sprintf("partition %d: offsets %d to %d are in no file", gone.Partition, gone.First, gone.Next-1)
	if !strings.Contains(e.Error, want) {
		t.Errorf("failed with %q, want %q", e.Error, want)
	}
	r.state(event.DatabaseStateLoaded)

	historytest.Send(r.World, schemas.ArchiveFiles, fmt.Sprintf("%s/%d/%d", gone.Topic, gone.Partition, gone.First), &gone)
	e = r.end(r.job("whole", version), event.CatchupEventKindCompleted)
	r.Same(model, r.Store(version))
	r.state(event.DatabaseStateStandby)
	for i, p := range e.Partitions {
		if p.To != end[i] {
			t.Errorf("partition %d ends at %d, want %d", i, p.To, end[i])
		}
	}
}

func TestWhatCannotBeCaughtUp(t *testing.T) {
	r := newRig(t, 5)
	for _, c := range []struct{ id, database, want string }{
		{"unknown", "v9", "database version v9 does not exist"},
		{"serving", historytest.Live, "database version v1 is in state SERVING; LOADED or STANDBY can be caught up"},
		{"none", "", "names no database_version"},
	} {
		if e := r.end(r.job(c.id, c.database), event.CatchupEventKindFailed); !strings.Contains(e.Error, c.want) {
			t.Errorf("%s: failed with %q, want %q", c.id, e.Error, c.want)
		}
	}
	// An applier that follows the version already is its only writer.
	member, err := kgo.NewClient(kgo.SeedBrokers(r.Config.Kafka.Brokers...), kgo.ConsumerGroup(group), kgo.ConsumeTopics(schemas.DatabusRecords), kgo.DisableAutoCommit())
	if err != nil {
		t.Fatal(err)
	}
	defer member.Close()
	r.Eventually("the applier has joined", func() bool {
		groups, err := r.Admin.DescribeGroups(t.Context(), group)
		return err == nil && groups[group].State == "Stable" && len(groups[group].Members) == 1
	})
	if e := r.end(r.job("followed", version), event.CatchupEventKindFailed); !strings.Contains(e.Error, "group "+group+" has members (1)") {
		t.Errorf("failed with %q", e.Error)
	}
	member.Close()
	r.end(r.job("free", version), event.CatchupEventKindCompleted)
}
