package identity_test

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/follow"
	"databus/pkg/graph"
	"databus/pkg/identity"
	"databus/pkg/internal/kafkatest"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

// personID is a readable one, of an account alone.
func personID(account string, fcid graph.FCID) string { return account + ":" + fcid.String() }

// randomRecords is random evidence of records, of three accounts.
func randomRecords(r *rand.Rand) []graph.Evidence {
	var all []graph.Evidence
	for i := range 10 + r.IntN(40) {
		account := string(rune('a' + r.IntN(3)))
		e := graph.Evidence{ID: fmt.Sprint(account, "/", i), Source: account, Relation: event.RelationTogether, Weight: 1, FirstSeen: int64(i)}
		for range 1 + r.IntN(3) {
			id := graph.Identifier{Kind: graph.Kind(r.IntN(int(graph.Composite)))}
			binary.BigEndian.PutUint16(id.Hash[:], uint16(r.IntN(50)))
			e.Identifiers = append(e.Identifiers, id)
		}
		slices.SortFunc(e.Identifiers, graph.Identifier.Compare)
		e.Identifiers = slices.Compact(e.Identifiers)
		all = append(all, e)
	}
	return all
}

// Every record whose person changes finds its account's alias from the old PersonID to the new one, and there is no other
// alias. Where the old person is not split, the alias is the only one, so that callers can follow it without asking.
func TestAliasesLeadFromEveryOldPersonToItsNewOne(t *testing.T) {
	kinds := map[event.ChangeKind]int{}
	for seed := range uint64(1000) {
		r := rand.New(rand.NewPCG(seed, 6))
		evidence := randomRecords(r)
		older := graph.Build(slices.Values(evidence))
		records := func(yield func(string, []graph.Identifier) bool) {
			for _, e := range evidence {
				if !yield(e.Source, e.Identifiers) {
					return
				}
			}
		}
		// Links come and pieces go.
		changed := slices.Clone(evidence)
		for i := range r.IntN(4) {
			x, y := evidence[r.IntN(len(evidence))].Identifiers[0], evidence[r.IntN(len(evidence))].Identifiers[0]
			ids := slices.Compact(slices.SortedFunc(slices.Values([]graph.Identifier{x, y}), graph.Identifier.Compare))
			changed = append(changed, graph.Evidence{ID: fmt.Sprint("link", i), Source: "bureau", Relation: event.RelationTogether, Weight: 1, FirstSeen: 1000, Identifiers: ids})
		}
		for range r.IntN(12) {
			i := r.IntN(len(evidence))
			changed[i].Relation, changed[i].Identifiers = event.RelationWithdrawn, nil
		}
		newer := graph.Build(slices.Values(changed))

		events := identity.Aliases("g1", "g2", graph.Diff(older.Graph, newer.Graph, records), personID)
		type alias struct{ from, to string }
		got, targets := map[alias]bool{}, map[string]map[string]bool{}
		split := map[string]bool{}
		for _, e := range events {
			kinds[e.Kind]++
			if e.FromVersion != "g1" || e.ToVersion != "g2" || e.FromFcid == e.ToFcid || len(e.Aliases) == 0 {
				t.Fatalf("seed %d: %+v", seed, e)
			}
			for _, a := range e.Aliases {
				if a.FromPersonID != a.Account+":"+e.FromFcid || a.ToPersonID != a.Account+":"+e.ToFcid {
					t.Fatalf("seed %d: %+v", seed, e)
				}
				got[alias{a.FromPersonID, a.ToPersonID}] = true
				if targets[a.FromPersonID] == nil {
					targets[a.FromPersonID] = map[string]bool{}
				}
				targets[a.FromPersonID][a.ToPersonID] = true
				split[a.FromPersonID] = split[a.FromPersonID] || e.Kind == event.ChangeKindSplit
			}
		}
		want := map[alias]bool{}
		for _, e := range evidence {
			from, _ := older.Resolve(e.Identifiers)
			to, _ := newer.Resolve(e.Identifiers)
			if from != to {
				want[alias{personID(e.Source, from), personID(e.Source, to)}] = true
			}
		}
		if !maps.Equal(got, want) {
			t.Fatalf("seed %d: aliases %v, want %v", seed, got, want)
		}
		for from, to := range targets {
			if !split[from] && len(to) != 1 {
				t.Fatalf("seed %d: %s is not split and leads to %v", seed, from, to)
			}
		}
	}
	for _, k := range []event.ChangeKind{event.ChangeKindMerged, event.ChangeKindSplit, event.ChangeKindRenamed} {
		if kinds[k] < 100 {
			t.Errorf("only %d changes are %s", kinds[k], k)
		}
	}
}

// Emitting again adds what is new and nothing else, after a crash between two transactions as well.
func TestChangesAreEmittedOnce(t *testing.T) {
	bed := kafkatest.New(t, schemas.IdentityChanges)
	change := func(from, to byte, accounts ...string) event.FcidChange {
		c := graph.Changes{Merged: []graph.Move{{From: graph.FCID{from}, To: graph.FCID{to}, Records: 1, Accounts: accounts}}}
		return identity.Aliases("g1", "g2", c, personID)[0]
	}
	emit := func(want int, changes ...event.FcidChange) {
		t.Helper()
		if n, err := identity.EmitChanges(t.Context(), bed.Opts, bed.Codec, changes); err != nil || n != want {
			t.Fatalf("%d events, %v; want %d", n, err, want)
		}
	}
	emit(0)
	emit(2, change(1, 9, "a", "b"), change(2, 9, "a"))
	emit(0, change(1, 9, "b", "a"), change(2, 9, "a"))
	emit(2, change(1, 9, "a", "b", "c"), change(2, 9, "a"), change(3, 9, "a"))
	other := change(1, 9, "a")
	other.ToVersion = "g3" // another pair of versions
	emit(1, other)
	// Somebody who died with a transaction open does not hold up the next one, and what he wrote does not count.
	dead, err := kgo.NewClient(append(slices.Clone(bed.Opts), kgo.TransactionalID("databus.graph-changes.g1.g2"))...)
	if err != nil {
		t.Fatal(err)
	}
	defer dead.Close()
	lost := change(4, 9, "a")
	value, err := codec.For[event.FcidChange](bed.Codec, schemas.IdentityChanges).Encode(t.Context(), &lost)
	if err != nil {
		t.Fatal(err)
	}
	if err := dead.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := dead.ProduceSync(t.Context(), &kgo.Record{Topic: schemas.IdentityChanges, Key: []byte("x"), Value: value}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	emit(1, change(1, 9, "a"), lost)
	if err := dead.EndTransaction(t.Context(), kgo.TryCommit); err == nil {
		t.Error("the one before could still commit")
	}

	count := map[string]int{}
	f, err := follow.Topic(t.Context(), bed.Opts, schemas.IdentityChanges, func(rec *kgo.Record) {
		var e event.FcidChange
		if err := codec.For[event.FcidChange](bed.Codec, rec.Topic).Decode(t.Context(), rec.Value, &e); err != nil {
			t.Error(err)
		}
		for _, a := range e.Aliases {
			count[e.ToVersion+" "+a.Account+" "+e.FromFcid[:2]]++
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.Close()
	want := map[string]int{"g2 a 01": 1, "g2 b 01": 1, "g2 c 01": 1, "g2 a 02": 1, "g2 a 03": 1, "g2 a 04": 1, "g3 a 01": 1}
	if !maps.Equal(count, want) {
		t.Errorf("%v, want %v", count, want)
	}
}
