package graph

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"databus/schemas/event"
)

func solve(evidence ...Evidence) *Solved {
	s := NewSet()
	for _, e := range evidence {
		s.Put(e)
	}
	return s.Solve()
}

func TestExplain(t *testing.T) {
	evidence := []Evidence{
		together("r1", 10, ident(Email, 1), ident(Phone, 1)),
		together("r2", 20, ident(Phone, 1), ident(MAID, 1), ident(Phone, 99)),
		together("r3", 30, ident(MAID, 1), ident(Social, 1)),
		together("alone", 5, ident(Email, 7), ident(Phone, 99)),
		together("tie", 40, ident(Social, 1), ident(Email, 7)),
		{ID: "apart", Relation: event.RelationApart, Weight: 1, Identifiers: []Identifier{ident(Email, 1), ident(Email, 7)}},
	}
	evidence[1].Weight, evidence[1].Source = 0.7, "bureau"
	evidence[4].Weight = 0.6 // the weakest is what is left out
	for i := range MaxStrong + 1 {
		evidence = append(evidence, together(fmt.Sprint("office", i), 1, ident(Phone, 99), ident(NationalID, i)))
	}
	s := solve(evidence...)
	x, err := s.Explain(ident(Social, 1))
	if err != nil {
		t.Fatal(err)
	}
	if x.FCID != FCIDOf(ident(Email, 1)) || x.Anchor != ident(Email, 1) || len(x.Members) != 4 || x.Members[1] != (Member{ident(Phone, 1), 10, 2}) {
		t.Errorf("%+v", x)
	}
	var names []string
	for _, p := range x.Evidence {
		names = append(names, p.ID)
	}
	if !slices.Equal(names, []string{"r1", "r3", "r2", "tie"}) || x.Evidence[2].Source != "bureau" || !slices.Equal(x.Evidence[2].Joins, []Identifier{ident(Phone, 1), ident(MAID, 1)}) {
		t.Errorf("evidence %+v", x.Evidence)
	}
	if len(x.Shared) != 1 || x.Shared[0].Identifier != ident(Phone, 99) || x.Shared[0].Strong <= MaxStrong || !slices.Equal(x.Refused, []string{"tie"}) {
		t.Errorf("shared %+v, refused %v", x.Shared, x.Refused)
	}
	steps, err := s.Path(ident(Email, 1), ident(Social, 1))
	if err != nil || len(steps) != 3 || steps[0].Piece.ID != "r1" || steps[1].Piece.ID != "r2" || steps[2].Piece.ID != "r3" || steps[2].To != ident(Social, 1) {
		t.Errorf("%+v, %v", steps, err)
	}
	for want, asked := range map[error][2]Identifier{
		ErrApart: {ident(Email, 1), ident(Email, 7)}, ErrShared: {ident(Email, 1), ident(Phone, 99)}, ErrNobody: {ident(Email, 1), ident(Email, 8)},
	} {
		if _, err := s.Path(asked[0], asked[1]); !errors.Is(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
	}
	if anchor, err := s.Person(x.FCID); err != nil || anchor != x.Anchor {
		t.Errorf("%v, %v", anchor, err)
	}
	if _, err := s.Person(FCIDOf(ident(Phone, 1))); !errors.Is(err, ErrNobody) {
		t.Error(err)
	}
	if ids, err := s.Piece("r3"); err != nil || len(ids) != 2 {
		t.Error(ids, err)
	}
	if _, err := s.Piece("apart"); !errors.Is(err, ErrNobody) {
		t.Error(err)
	}
	id, err := ParseIdentifier(ident(Social, 1).Text())
	if err != nil || id != ident(Social, 1) {
		t.Error(id, err)
	}
}

// For random evidence: an explanation's members are exactly the identifiers that the graph gives its FCID, every path is of
// pieces that name both ends and joins its ends, and there is one between any two members.
func TestExplanationsEqualTheGraph(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 7))
		evidence := map[string]Evidence{} // one for each id
		for _, e := range random(r) {
			evidence[e.ID] = e
		}
		var list []Evidence
		for _, e := range evidence {
			list = append(list, e)
		}
		s, g := solve(list...), build(list...)
		if !bytes.Equal(s.Built().File, g.File) {
			t.Fatalf("seed %d: another graph", seed)
		}
		of := map[FCID][]Identifier{}
		for _, e := range list {
			for _, id := range e.Identifiers {
				if fcid, known, isShared := g.Lookup(id); known && !isShared && !slices.Contains(of[fcid], id) {
					of[fcid] = append(of[fcid], id)
				}
			}
		}
		for fcid, ids := range of {
			x, err := s.Explain(ids[0])
			if err != nil || x.FCID != fcid || len(x.Members) != len(ids) || FCIDOf(x.Anchor) != fcid {
				t.Fatalf("seed %d: %+v, %v; want %v", seed, x, err, ids)
			}
			for _, m := range x.Members {
				steps, err := s.Path(ids[0], m.Identifier)
				if err != nil || !slices.Contains(ids, m.Identifier) {
					t.Fatalf("seed %d: %v, %v", seed, m, err)
				}
				at := ids[0]
				for _, step := range steps {
					if step.From != at || !slices.Contains(step.Piece.Identifiers, step.From) || !slices.Contains(step.Piece.Identifiers, step.To) {
						t.Fatalf("seed %d: %+v", seed, steps)
					}
					at = step.To
				}
				if at != m.Identifier {
					t.Fatalf("seed %d: the path ends elsewhere", seed)
				}
			}
		}
	}
}
