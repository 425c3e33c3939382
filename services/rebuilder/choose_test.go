package rebuilder

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"databus/pkg/history"
	"databus/pkg/identity"
	"databus/pkg/identity/identitytest"
	"databus/schemas/event"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// load rebuilds inputs into a keyspace of its own.
func load(t testing.TB, stores identity.Stores, name string, h *identitytest.History, inputs []identity.Input) (identity.Store, event.RebuildResult) {
	t.Helper()
	store := identitytest.Fresh(t, stores, name)
	l := &loader{
		cfg: Config{BatchRows: 3, BatchBytes: 1 << 20}, graph: h.Graph, store: store,
		rows:    h.Resolver,
		locked:  func(context.Context, *event.DatabusRecord) (bool, error) { return false, nil },
		written: func(int) {},
		read: func(_ context.Context, fn func(*identity.Input) error) (history.Summary, error) {
			for i := range inputs {
				in := inputs[i]
				if err := fn(&in); err != nil {
					return history.Summary{}, err
				}
			}
			return history.Summary{}, nil
		},
	}
	must(t, l.load(t.Context()))
	return store, l.count(event.RebuildResult{})
}

// The passes must come to what the applier comes to, for histories with moves, deletes, repeats across the window, clocks
// that go back and versions that do not open, in every column.
func TestChoiceIsTheAppliers(t *testing.T) {
	stores, err := identity.OpenStores(t.Context(), "mem://")
	must(t, err)
	t.Cleanup(func() { must(t, stores.Close()) })
	var dead, repeats int64
	for seed := range uint64(12) {
		h := identitytest.NewHistory(t, seed, 400)
		for _, n := range []int{0, 1, 17, 80, len(h.Inputs)} {
			inputs := h.Inputs[:n]
			name := fmt.Sprintf("s%d_%d", seed, n)
			live := identitytest.Fresh(t, stores, "live_"+name)
			a := identity.Applier{Rows: h.Resolver, Graph: h.Graph}
			results, err := a.Apply(t.Context(), live, inputs)
			must(t, err)
			rebuilt, result := load(t, stores, "rebuilt_"+name, h, inputs)
			c, err := identity.Compare(t.Context(), live, rebuilt)
			must(t, err)
			if !c.Equal() {
				t.Fatalf("seed %d, %d versions: %d of %d rows differ: %v", seed, n, c.Differences, c.Rows, c.Diffs)
			}
			want := event.RebuildResult{Records: int64(n)}
			records := map[[2]string]bool{}
			for i, r := range results {
				switch r.Outcome {
				case identity.Applied:
					want.Superseded++
					records[[2]string{inputs[i].Record.Account, inputs[i].Record.RecordKey}] = true
				case identity.Repeat:
					want.Repeats++
				case identity.Dead:
					want.Dead++
				}
			}
			want.Winners = int64(len(records))
			want.Superseded -= want.Winners
			// A superseded version of which nothing depends on whether it opens is not opened, so it counts as superseded.
			if diff := want.Dead - result.Dead; diff < 0 || want.Superseded+diff != result.Superseded {
				t.Fatalf("seed %d, %d versions: counted %+v, want %+v", seed, n, result, want)
			}
			want.Dead, want.Superseded, want.Rows = result.Dead, result.Superseded, c.Rows
			if result != want {
				t.Fatalf("seed %d, %d versions: counted %+v, want %+v", seed, n, result, want)
			}
			must(t, verify(t.Context(), rebuilt, result))
			dead, repeats = dead+result.Dead, repeats+result.Repeats
		}
	}
	if dead < 50 || repeats < 100 {
		t.Errorf("only %d dead and %d repeats: the test does not test", dead, repeats)
	}
}

// What is not as it was written is not verified.
func TestVerifyRefusesOtherRows(t *testing.T) {
	stores, err := identity.OpenStores(t.Context(), "mem://")
	must(t, err)
	t.Cleanup(func() { must(t, stores.Close()) })
	h := identitytest.NewHistory(t, 1, 60)
	store, result := load(t, stores, "one", h, h.Inputs)
	for _, change := range []func(*event.RebuildResult){
		func(r *event.RebuildResult) { r.Winners++ },
		func(r *event.RebuildResult) { r.Rows-- },
	} {
		sum := result
		change(&sum)
		if err := verify(t.Context(), store, sum); err == nil {
			t.Errorf("%+v was verified, written were %+v", sum, result)
		}
	}
}

// A version that does not open counts for nothing even where it is long gone from the request ids of the newest one: it
// may have made another version a repeat, or have pushed a request id out too early.
func TestDeadVersionsFarBack(t *testing.T) {
	stores, err := identity.OpenStores(t.Context(), "mem://")
	must(t, err)
	t.Cleanup(func() { must(t, stores.Close()) })
	h := identitytest.NewHistory(t, 1, 30)
	type version struct {
		request string
		hours   float64
		dead    bool
	}
	many := func(from, to int, hours float64) []version {
		var list []version
		for i := from; i < to; i++ {
			list = append(list, version{request: fmt.Sprint("other-", i), hours: hours})
		}
		return list
	}
	cases := map[string][]version{
		"a repeat of it is the newest":           {{"a", 0, true}, {"a", 1, false}},
		"a repeat of it, then another":           {{"a", 0, true}, {"a", 1, false}, {"b", 2, false}},
		"forgotten when the newest came":         {{"a", 0, true}, {"a", 20, false}, {"b", 30, false}},
		"of two dead ones":                       {{"a", 0, true}, {"a", 1, true}, {"a", 2, false}, {"b", 3, false}},
		"it pushed out the id of a later repeat": slices.Concat([]version{{"a", 0, false}, {"d", 0, true}}, many(0, 15, 1), []version{{"a", 2, false}}),
		"the same, and both are forgotten": slices.Concat([]version{{"a", 0, false}, {"d", 0, true}}, many(0, 15, 1), []version{{"a", 2, false}},
			many(20, 40, 3)),
		"nothing is left": {{"a", 0, true}, {"b", 1, true}},
	}
	n := 0
	for name, versions := range cases {
		var inputs []identity.Input
		for i, v := range versions {
			res, err := h.Resolver.Resolve(t.Context(), h.Graph, &identity.Request{
				Account: "account", RequestID: v.request, Kind: event.RequestKindUpsert,
				Record: event.CustomerRecord{RecordID: "record", Fields: map[string]string{"note": fmt.Sprint(i)}},
			})
			must(t, err)
			if v.dead {
				res.Record.Sealed[len(res.Record.Sealed)-1] ^= 1
			}
			at := time.UnixMilli(1_800_000_000_000).Add(time.Duration(v.hours * float64(time.Hour)))
			inputs = append(inputs, identity.Input{Record: &res.Record, Offset: int64(i), AppendTime: at})
		}
		n++
		live := identitytest.Fresh(t, stores, fmt.Sprint("far_live", n))
		_, err := (&identity.Applier{Rows: h.Resolver, Graph: h.Graph}).Apply(t.Context(), live, inputs)
		must(t, err)
		rebuilt, result := load(t, stores, fmt.Sprint("far_rebuilt", n), h, inputs)
		c, err := identity.Compare(t.Context(), live, rebuilt)
		must(t, err)
		if !c.Equal() || result.Records != int64(len(inputs)) {
			t.Errorf("%s: %d differences: %v, counted %+v", name, c.Differences, c.Diffs, result)
		}
	}
}

// A database that was filled before keys were revoked, and swept, equals one that is rebuilt afterwards, in every column;
// what the rebuild counts as shredded is what the sweep and later versions were.
func TestShreddedRecordsAgree(t *testing.T) {
	stores, err := identity.OpenStores(t.Context(), "mem://")
	must(t, err)
	t.Cleanup(func() { must(t, stores.Close()) })
	var shredded int64
	for seed := range uint64(8) {
		h := identitytest.NewSoundHistory(t, 100+seed, 400)
		live := identitytest.Fresh(t, stores, fmt.Sprint("live_shredded", seed))
		a := identity.Applier{Rows: h.Resolver, Graph: h.Graph}
		half := len(h.Inputs) / 2
		_, err := a.Apply(t.Context(), live, h.Inputs[:half])
		must(t, err)
		h.Shred(t)
		pending, _, _ := h.Keyring.Unswept("live")
		_, err = identity.Sweep(t.Context(), live, h.Resolver, pending)
		must(t, err)
		_, err = a.Apply(t.Context(), live, h.Inputs[half:])
		must(t, err)
		rebuilt, result := load(t, stores, fmt.Sprint("rebuilt_shredded", seed), h, h.Inputs)
		c, err := identity.Compare(t.Context(), live, rebuilt)
		must(t, err)
		if !c.Equal() {
			t.Errorf("seed %d: %d of %d rows differ: %v", seed, c.Differences, c.Rows, c.Diffs)
		}
		must(t, verify(t.Context(), rebuilt, result))
		shredded += result.Shredded
	}
	if shredded < 20 {
		t.Errorf("only %d records are shredded: the test does not test", shredded)
	}
}
