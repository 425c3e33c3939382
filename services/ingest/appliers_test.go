package ingest

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"databus/pkg/graph"
	"databus/pkg/identity"
	"databus/schemas"
	"databus/schemas/event"
)

func (r *rig) announce(version, graphVersion string, state event.DatabaseState) {
	r.t.Helper()
	if err := r.Store(version).Create(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	r.Announce(event.DatabaseVersion{Version: version, Keyspace: version, GraphVersion: graphVersion, ApplierGroup: "ingest.applier." + version, State: state})
}

func TestTwoVersions(t *testing.T) {
	r := newRig(t, nil)
	r.start()
	r.Write(100)
	r.announce("v2", graph.GenesisVersion, event.DatabaseStateStandby)
	r.Eventually("v2 has an applier", func() bool { return r.members("ingest.applier.v2") == 1 })
	r.Write(100)
	for _, v := range []string{"v1", "v2"} {
		r.groupAtEnd("ingest.applier."+v, schemas.DatabusRecords)
	}
	if bad := r.unready(); len(bad) > 0 {
		t.Errorf("unready: %v", bad)
	}
	r.modelled("v1", "model1")
	r.Same(r.Store("v1"), r.Store("v2"))

	// Cut over to a newer graph: answers are the new version's at once, rows too.
	built := r.Graph("g2")
	r.announce("v3", "g2", event.DatabaseStateStandby)
	r.Eventually("v3 has an applier", func() bool { return r.members("ingest.applier.v3") == 1 })
	r.groupAtEnd("ingest.applier.v3", schemas.DatabusRecords)
	r.announce("v3", "g2", event.DatabaseStateServing)
	r.announce("v1", graph.GenesisVersion, event.DatabaseStateRetired)
	r.Eventually("the API answers from v3", func() bool { return r.put("acme", "x", "x", "person-1@example.org").GraphVersion == "g2" })
	r.Eventually("v1's group is empty", func() bool { return r.members("ingest.applier.v1") == 0 })
	end := r.Ends()
	r.Write(60)
	for _, v := range []string{"v2", "v3"} {
		r.groupAtEnd("ingest.applier."+v, schemas.DatabusRecords)
	}
	r.Same(r.Apply("model3", built, r.Ends()), r.Store("v3"))
	r.modelled("v2", "model2")
	// What v1 has, it had when it was retired.
	newest := map[string]int64{}
	scan := func(store identity.Store, each func(row *identity.Row)) {
		if err := store.Scan(t.Context(), identity.Tables()[0], func(row *identity.Row) error { each(row); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	scan(r.Apply("model4", graph.Genesis(), end), func(row *identity.Row) { newest[row.Account+row.RecordKey] = row.Version })
	scan(r.Store("v1"), func(row *identity.Row) {
		if row.Version > newest[row.Account+row.RecordKey] {
			t.Errorf("a retired version was written to: %d", row.Version)
		}
	})
	for name := range r.unready() {
		t.Errorf("unready: %s", name)
	}
}

func (r *rig) members(group string) int {
	groups, err := r.Admin.DescribeGroups(r.t.Context(), group)
	if err != nil {
		return -1
	}
	return len(groups[group].Members)
}

// A batch is cut off anywhere, by the store or by the end of the process, half of it written: in the end the tables are
// the model's.
func TestHardStops(t *testing.T) {
	r := newRig(t, map[string]any{"applier.max_batch": 20, "applier.retry": "10ms"})
	rng := rand.New(rand.NewPCG(3, 3))
	var torn, stops atomic.Int32
	var stopping atomic.Bool
	r.Stores.Before(func(ctx context.Context, keyspace string, changes []identity.Change) error {
		if keyspace != "v1" {
			return nil
		}
		n := torn.Add(1)
		if n%3 != 0 && !stopping.Load() {
			return nil
		}
		inner, err := r.Stores.Stores.Keyspace(keyspace)
		if err == nil && len(changes) > 1 {
			err = inner.Apply(ctx, changes[:1+int(n)%(len(changes)-1)])
		}
		if stopping.Load() { // the process ends here
			stops.Add(1)
			<-ctx.Done()
			return ctx.Err()
		}
		return errors.Join(err, errors.New("cut off"))
	})
	for range 4 {
		r.Write(60 + rng.IntN(60))
		stopping.Store(false)
		r.launch()
		time.Sleep(time.Duration(rng.IntN(300)) * time.Millisecond)
		before := stops.Load()
		stopping.Store(true)
		r.Write(30)
		r.Eventually("a batch is under way", func() bool { return stops.Load() > before })
		r.stop()
	}
	stopping.Store(false)
	r.start()
	r.groupAtEnd("ingest.applier.v1", schemas.DatabusRecords)
	if torn.Load() < 10 || stops.Load() == 0 {
		t.Errorf("%d batches and %d stops: the test does not test", torn.Load(), stops.Load())
	}
	r.Stores.Before(nil)
	r.modelled("v1", "model")
}

// What retention has dropped is an error that says what to do, never a gap.
func TestBehindRetention(t *testing.T) {
	r := newRig(t, nil)
	r.start()
	r.Write(60)
	r.groupAtEnd("ingest.applier.v1", schemas.DatabusRecords)
	r.stop()
	r.Write(120)
	drop := kadm.Offsets{}
	for p, end := range r.Ends() {
		drop.Add(kadm.Offset{Topic: schemas.DatabusRecords, Partition: int32(p), At: end, LeaderEpoch: -1})
	}
	if _, err := r.Admin.DeleteRecords(t.Context(), drop); err != nil {
		t.Fatal(err)
	}
	r.launch()
	r.Eventually("it says what to do", func() bool {
		bad := r.unready()
		return strings.Contains(bad["applier/v1"], "retention has dropped what this database has not applied") &&
			strings.Contains(bad[evidenceGroup], "retention has deleted")
	})
	if p := r.call("POST", "/v1/accounts/acme/records", `{"record_id":"a"}`); p.status != 200 {
		t.Errorf("the API: %d %s", p.status, p.body)
	}
}
