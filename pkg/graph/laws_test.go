package graph

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"databus/schemas/event"
)

// plain evidence sets nothing apart and shares nothing; every identifier in it is known.
func plain(r *rand.Rand) (evidence []Evidence, ids []Identifier) {
	for i := range 10 + r.IntN(30) {
		var some []Identifier
		for range 1 + r.IntN(3) {
			some = append(some, ident(Kind(r.IntN(int(Record))), r.IntN(60)))
		}
		ids = append(ids, some...)
		evidence = append(evidence, together(fmt.Sprint("e", i), int64(r.IntN(10)), some...))
	}
	return evidence, ids
}

// A link between two persons makes them one, with the FCID of the lesser anchor, and changes nobody else; its withdrawal
// restores the graph byte by byte.
func TestMergeAndSplitLaws(t *testing.T) {
	merges := 0
	for seed := range uint64(1000) {
		r := rand.New(rand.NewPCG(seed, 4))
		evidence, ids := plain(r)
		before := build(evidence...)
		if before.Stats().Shared != 0 {
			t.Fatalf("seed %d: something is shared", seed)
		}
		x, y := ids[r.IntN(len(ids))], ids[r.IntN(len(ids))]
		link := together("link", 100, x, y)
		after := build(append(slices.Clone(evidence), link)...)
		a, b, one := person(t, before, x), person(t, before, y), person(t, after, x)
		if one != person(t, after, y) || one != a && one != b {
			t.Fatalf("seed %d: %s and %s became %s", seed, a, b, one)
		}
		if a != b {
			merges++
		}
		// The anchor that is left is the one that a graph of both persons alone has.
		var both []Evidence
		for _, e := range evidence {
			if p := person(t, before, e.Identifiers[0]); p == a || p == b {
				both = append(both, e)
			}
		}
		if alone := person(t, build(append(both, link)...), x); alone != one {
			t.Fatalf("seed %d: FCID %s, alone it is %s", seed, one, alone)
		}
		for _, id := range ids {
			was, is := person(t, before, id), person(t, after, id)
			want := was
			if was == a || was == b {
				want = one
			}
			if is != want {
				t.Fatalf("seed %d: %s became %s, want %s", seed, was, is, want)
			}
		}
		gone := link
		gone.Relation, gone.Identifiers, gone.ObservedAt = event.RelationWithdrawn, nil, 101
		restored := append(slices.Clone(evidence), link, gone)
		r.Shuffle(len(restored), func(i, j int) { restored[i], restored[j] = restored[j], restored[i] })
		if got := build(restored...); !bytes.Equal(got.File, before.File) {
			t.Fatalf("seed %d: the split does not restore the graph", seed)
		}
	}
	if merges < 500 {
		t.Errorf("only %d of the links joined two persons", merges)
	}
}

// A set that is filled, changed and emptied in any order is the set of what is left.
func TestSetIsWhatIsLeft(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 5))
		s, model := NewSet(), map[string]Evidence{}
		for _, e := range append(random(r), random(r)...) {
			if r.IntN(4) == 0 {
				s.Delete(e.ID)
				delete(model, e.ID)
				continue
			}
			e.Source = fmt.Sprint(r.IntN(3))
			given := slices.Clone(e.Identifiers)
			s.Put(Evidence{ID: e.ID, Source: e.Source, Relation: e.Relation, Identifiers: given, Weight: e.Weight, FirstSeen: e.FirstSeen, ObservedAt: e.ObservedAt})
			clear(given) // the set keeps its own
			model[e.ID] = e
		}
		var left []Evidence
		for id, e := range model {
			left = append(left, e)
			if got, ok := s.Get(id); !ok || got.compare(e) != 0 {
				t.Fatalf("seed %d: %+v, want %+v", seed, got, e)
			}
		}
		if s.Len() != len(left) || !bytes.Equal(s.Build().File, build(left...).File) {
			t.Fatalf("seed %d: the set differs", seed)
		}
	}
}
