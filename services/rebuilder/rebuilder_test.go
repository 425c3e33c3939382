package rebuilder_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"databus/pkg/graph"
	"databus/pkg/history/historytest"
	"databus/pkg/identity"
	"databus/pkg/seal"
	"databus/schemas"
	"databus/schemas/event"
	"databus/services/rebuilder"
)

// rig is a world with a rebuilder at work.
type rig struct {
	*historytest.World
	t       *testing.T
	running *historytest.Running
}

var overrides = map[string]any{"cleanup": "100ms", "batch_rows": 5}

func newRig(t *testing.T, seed uint64) *rig {
	t.Helper()
	r := &rig{World: historytest.New(t, seed), t: t}
	r.running = r.Start(rebuilder.Definition().Service(), overrides)
	return r
}

// job asks for a rebuild and returns its events.
func (r *rig) job(id string, change func(*event.RebuildRequest)) *historytest.Events[event.RebuildEvent] {
	r.t.Helper()
	q := &event.RebuildRequest{JobID: id, RequestedBy: "test"}
	if change != nil {
		change(q)
	}
	historytest.Send(r.World, schemas.RebuildRequests, id, q)
	return historytest.Listen[event.RebuildEvent](r.World, schemas.RebuildEvents, id)
}

func (r *rig) end(events *historytest.Events[event.RebuildEvent], want event.RebuildEventKind) event.RebuildEvent {
	r.t.Helper()
	e := events.Until(r.World, "the job ends", func(e event.RebuildEvent) bool {
		switch e.Kind {
		case event.RebuildEventKindCompleted, event.RebuildEventKindFailed, event.RebuildEventKindCancelled:
			return true
		}
		return false
	})
	if e.Kind != want {
		r.t.Fatalf("the job ended with %s (%s), want %s", e.Kind, e.Error, want)
	}
	return e
}

func frontier(e event.RebuildEvent) []int64 {
	var list []int64
	for i, f := range e.Frontier {
		if int(f.Partition) != i {
			return nil
		}
		list = append(list, f.Offset)
	}
	return list
}

func TestRebuildEqualsTheAppliersDatabase(t *testing.T) {
	r := newRig(t, 1)
	r.Write(250)
	ends := r.Ends()
	r.Archive(make([]int64, len(ends)), ends, nil)
	r.Write(60) // not archived, so behind the frontier

	e := r.end(r.job("same", nil), event.RebuildEventKindCompleted)
	if fmt.Sprint(frontier(e)) != fmt.Sprint(ends) {
		t.Errorf("frontier %v, the archive ends at %v", frontier(e), ends)
	}
	v, ok := r.Database(e.DatabaseVersion)
	if !ok || v.State != event.DatabaseStateLoaded || v.JobID != "same" || v.GraphVersion != graph.GenesisVersion || v.ApplierGroup != "ingest.applier."+v.Version {
		t.Errorf("database version %+v", v)
	}
	live := r.Apply(historytest.Live, graph.Genesis(), ends)
	r.Same(live, r.Store(v.Keyspace))
	var records, rows int64
	for _, table := range identity.Tables() {
		n := int64(0)
		if err := r.Store(v.Keyspace).Scan(t.Context(), table, func(row *identity.Row) error {
			if n++; table.Name == identity.ByKey.Name && row.Deleted {
				records++
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		rows += n
	}
	if records == 0 || e.Rows != rows || e.Records == 0 || e.Dead != 0 || e.Done != e.Tasks {
		t.Errorf("%d deleted records, event %+v, %d rows", records, e, rows)
	}

	// Under a newer graph it equals what an applier makes of that graph.
	g := r.Graph("g2")
	next := "next"
	e = r.end(r.job("other-graph", func(q *event.RebuildRequest) { q.GraphVersion, q.DatabaseVersion = ptr("g2"), &next }), event.RebuildEventKindCompleted)
	v, _ = r.Database(next)
	if e.GraphVersion != "g2" || v.GraphVersion != "g2" {
		t.Errorf("rebuilt with graph %s, announced %s", e.GraphVersion, v.GraphVersion)
	}
	r.Same(r.Apply("model", g, ends), r.Store(v.Keyspace))
	if c, err := identity.Compare(t.Context(), live, r.Store(v.Keyspace)); err != nil || c.Equal() {
		t.Errorf("the newer graph changes nothing (%v): the test does not test", err)
	}
}

func ptr[T any](v T) *T { return &v }

// A revoked key's records are gone from a rebuilt database, and counted.
func TestRevokedKeys(t *testing.T) {
	r := newRig(t, 2)
	r.Write(120)
	ends := r.Ends()
	r.Archive(make([]int64, len(ends)), ends, nil)
	revoked := r.Keyring.List()[0]
	if _, err := r.Keyring.Shred(t.Context(), seal.Shred{Account: revoked.Account}); err != nil {
		t.Fatal(err)
	}
	e := r.end(r.job("revoked", nil), event.RebuildEventKindCompleted)
	v, _ := r.Database(e.DatabaseVersion)
	r.Same(r.Apply("model", graph.Genesis(), ends), r.Store(v.Keyspace))
	if e.Shredded == 0 || e.Dead != 0 {
		t.Errorf("%d shredded, %d dead", e.Shredded, e.Dead)
	}
	markers := int64(0)
	if err := r.Store(v.Keyspace).Scan(t.Context(), identity.ByKey, func(row *identity.Row) error {
		if row.Account == revoked.Account {
			if !row.Deleted {
				t.Errorf("record %s… of a shredded account has a row", row.RecordKey[:8])
			}
			markers++
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if markers < e.Shredded {
		t.Errorf("%d markers of %d shredded records", markers, e.Shredded)
	}
}

// The service is stopped in the middle of tasks and started again; tasks that had written a part write it again.
func TestStoppedInTheMiddle(t *testing.T) {
	r := newRig(t, 3)
	r.Write(300)
	ends := r.Ends()
	r.Archive(make([]int64, len(ends)), ends, nil)

	var applied atomic.Int32
	held := make(chan struct{}, 100)
	r.Stores.Before(func(ctx context.Context, _ string, _ []identity.Change) error {
		if applied.Add(1) <= 3 {
			return nil
		}
		held <- struct{}{}
		<-ctx.Done() // until the process stops
		return ctx.Err()
	})
	events := r.job("stopped", nil)
	<-held
	r.running.Stop()
	failed := errors.New("the store is away for a moment")
	r.Stores.Before(func(context.Context, string, []identity.Change) error {
		if applied.Add(1)%7 == 0 {
			return failed
		}
		return nil
	})
	r.running = r.Start(rebuilder.Definition().Service(), map[string]any{"cleanup": "100ms", "batch_rows": 5, "attempts": 50})
	e := r.end(events, event.RebuildEventKindCompleted)
	r.Stores.Before(nil)
	v, _ := r.Database(e.DatabaseVersion)
	r.Same(r.Apply("model", graph.Genesis(), ends), r.Store(v.Keyspace))

	// The same request again changes nothing and is answered with the same end.
	before := len(events.All())
	historytest.Send(r.World, schemas.RebuildRequests, "stopped", &event.RebuildRequest{JobID: "stopped"})
	r.Eventually("the end is said again", func() bool {
		n := 0
		for _, e := range events.All()[before:] {
			if e.Kind == event.RebuildEventKindCompleted {
				n++
			}
		}
		return n > 0
	})
}

func TestWhatCannotBeRebuilt(t *testing.T) {
	r := newRig(t, 4)
	r.Write(200)
	ends := r.Ends()
	var gap event.ArchiveFile
	n := 0
	r.Archive(make([]int64, len(ends)), ends, func(f event.ArchiveFile) bool {
		if f.First > 0 && n == 0 && f.Next < ends[f.Partition] {
			gap = f
			n++
			return true
		}
		return false
	})
	for _, c := range []struct {
		name   string
		change func(*event.RebuildRequest)
		want   string
	}{
		{"gap", nil, fmt.Sprintf("partition %d: offsets %d to %d are in no file", gap.Partition, gap.First, gap.Next-1)},
		{"graph", func(q *event.RebuildRequest) { q.GraphVersion = ptr("g9") }, "graph version is unknown: g9"},
		{"taken", func(q *event.RebuildRequest) { q.DatabaseVersion = ptr(historytest.Live) }, "database version v1 exists already, in state SERVING"},
		{"name", func(q *event.RebuildRequest) { q.DatabaseVersion = ptr("a/b") }, "database_version is not 1 to 64 characters"},
	} {
		if e := r.end(r.job(c.name, c.change), event.RebuildEventKindFailed); !strings.Contains(e.Error, c.want) {
			t.Errorf("%s: failed with %q, want %q", c.name, e.Error, c.want)
		}
	}
	if n == 0 {
		t.Error("no file was left out: the test does not test")
	}
}

// What a cancelled job has built is dropped.
func TestCancelled(t *testing.T) {
	r := newRig(t, 5)
	r.Write(150)
	ends := r.Ends()
	r.Archive(make([]int64, len(ends)), ends, nil)
	held := make(chan struct{}, 100)
	r.Stores.Before(func(ctx context.Context, _ string, _ []identity.Change) error {
		held <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	})
	events := r.job("cancelled", func(q *event.RebuildRequest) { q.DatabaseVersion = ptr("c1") })
	<-held
	v, _ := r.Database("c1")
	if v.State != event.DatabaseStateBuilding {
		t.Errorf("state %s while it is built", v.State)
	}
	historytest.Send(r.World, schemas.RebuildRequests, "cancelled", &event.RebuildRequest{JobID: "cancelled", Cancel: true})
	r.end(events, event.RebuildEventKindCancelled)
	r.Eventually("the version is given up", func() bool {
		v, _ := r.Database("c1")
		return v.State == event.DatabaseStateFailed
	})
	if _, _, err := r.Store(v.Keyspace).Get(t.Context(), "account-0", strings.Repeat("0", 32)); !errors.Is(err, identity.ErrNoKeyspace) {
		t.Errorf("reading the keyspace: %v, want %v", err, identity.ErrNoKeyspace)
	}
}
