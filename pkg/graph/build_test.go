package graph

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"databus/schemas/event"
)

// ident is an identifier with a hash that is its number.
func ident(kind Kind, n int) Identifier {
	id := Identifier{Kind: kind}
	binary.BigEndian.PutUint64(id.Hash[:], uint64(n))
	return id
}

func together(id string, seen int64, ids ...Identifier) Evidence {
	return Evidence{ID: id, Relation: event.RelationTogether, Identifiers: sortIdentifiers(ids), Weight: 1, FirstSeen: seen, ObservedAt: seen}
}

func build(evidence ...Evidence) *Built { return Build(slices.Values(evidence)) }

// person asks for the FCID of one identifier; zero when it is unknown or shared.
func person(t *testing.T, g *Built, id Identifier) FCID {
	t.Helper()
	fcid, known, isShared := g.Lookup(id)
	if !known || isShared {
		return FCID{}
	}
	return fcid
}

// ofAcme are records of one account.
func ofAcme(records [][]Identifier) iter.Seq2[string, []Identifier] {
	return func(yield func(string, []Identifier) bool) {
		for _, ids := range records {
			if !yield("acme", ids) {
				return
			}
		}
	}
}

func random(r *rand.Rand) []Evidence {
	var out []Evidence
	n := 20 + r.IntN(60)
	space := 5 + r.IntN(60)
	for i := range n {
		e := Evidence{ID: fmt.Sprint("e", r.IntN(n)), Relation: event.RelationTogether, Weight: []float64{0.2, 0.5, 0.7, 1}[r.IntN(4)],
			FirstSeen: int64(r.IntN(20)), ObservedAt: int64(r.IntN(20))}
		switch r.IntN(12) {
		case 0:
			e.Relation = event.RelationApart
		case 1:
			e.Relation = event.RelationWithdrawn
		}
		for range 1 + r.IntN(4) {
			e.Identifiers = append(e.Identifiers, ident(Kind(r.IntN(int(kinds))), r.IntN(space)))
		}
		if i%10 == 0 { // something that may get shared
			e.Identifiers = append(e.Identifiers, ident(Phone, 0))
		}
		e.Identifiers = sortIdentifiers(e.Identifiers)
		out = append(out, e)
	}
	return out
}

func TestBuildDoesNotDependOnOrder(t *testing.T) {
	for seed := range uint64(1000) {
		r := rand.New(rand.NewPCG(seed, 1))
		evidence := random(r)
		want := build(evidence...)
		for range 5 {
			r.Shuffle(len(evidence), func(i, j int) { evidence[i], evidence[j] = evidence[j], evidence[i] })
			if got := build(evidence...); !bytes.Equal(got.File, want.File) {
				t.Fatalf("seed %d: another order gives another file", seed)
			}
			if got := build(append(evidence, evidence[:10]...)...); !bytes.Equal(got.File, want.File) {
				t.Fatalf("seed %d: repeated evidence gives another file", seed)
			}
		}
	}
}

// A model without union-find: components by flooding over plain evidence, anchors by looking at every member.
func TestComponentsEqualModel(t *testing.T) {
	for seed := range uint64(1000) {
		r := rand.New(rand.NewPCG(seed, 2))
		var evidence []Evidence
		for i := range 30 {
			e := together(fmt.Sprint(i), int64(r.IntN(10)))
			for range 1 + r.IntN(3) {
				e.Identifiers = append(e.Identifiers, ident(Kind(r.IntN(int(Record))), r.IntN(40)))
			}
			e.Identifiers = sortIdentifiers(e.Identifiers)
			evidence = append(evidence, e)
		}
		g := build(evidence...)
		if g.Stats().Shared != 0 {
			t.Fatalf("seed %d: the model has no shared identifiers", seed)
		}
		persons := map[FCID]bool{}
		for _, e := range evidence {
			for _, id := range e.Identifiers {
				group := map[Identifier]bool{id: true}
				for grew := true; grew; {
					grew = false
					for _, o := range evidence {
						if slices.ContainsFunc(o.Identifiers, func(x Identifier) bool { return group[x] }) {
							for _, x := range o.Identifiers {
								grew = grew || !group[x]
								group[x] = true
							}
						}
					}
				}
				var anchor Identifier
				best := int64(-1)
				for x := range group {
					seen := int64(1 << 40)
					for _, o := range evidence {
						if slices.Contains(o.Identifiers, x) {
							seen = min(seen, o.FirstSeen)
						}
					}
					if best < 0 || x.Kind < anchor.Kind || x.Kind == anchor.Kind && (seen < best || seen == best && x.Compare(anchor) < 0) {
						anchor, best = x, seen
					}
				}
				if got := person(t, g, id); got != FCIDOf(anchor) {
					t.Fatalf("seed %d: FCID %s, the model has %s", seed, got, FCIDOf(anchor))
				}
				persons[FCIDOf(anchor)] = true
			}
		}
		if g.Stats().Persons != int64(len(persons)) {
			t.Fatalf("seed %d: %d persons, the model has %d", seed, g.Stats().Persons, len(persons))
		}
	}
}

func TestMergeKeepsTheOlderAnchorsFCID(t *testing.T) {
	older := together("1", 10, ident(Email, 9), ident(Phone, 1))
	younger := together("2", 20, ident(Email, 1), ident(Phone, 2))
	before := build(older, younger)
	a, b := person(t, before, ident(Phone, 1)), person(t, before, ident(Phone, 2))
	if a == b {
		t.Fatal("two persons before the merge are one")
	}
	after := build(older, younger, together("3", 30, ident(Phone, 1), ident(Phone, 2)))
	for _, id := range []Identifier{ident(Email, 9), ident(Phone, 1), ident(Email, 1), ident(Phone, 2)} {
		if got := person(t, after, id); got != a {
			t.Errorf("%v has FCID %s, the older anchor's is %s", id.Kind, got, a)
		}
	}
	c := Diff(before.Graph, after.Graph, ofAcme([][]Identifier{{ident(Phone, 1)}, {ident(Phone, 2)}}))
	if len(c.Merged) != 1 || !reflect.DeepEqual(c.Merged[0], Move{From: b, To: a, Records: 1, Accounts: []string{"acme"}}) || len(c.Split)+len(c.Renamed) != 0 || c.PersonsBefore != 2 || c.PersonsAfter != 1 {
		t.Errorf("diff: %+v", c)
	}
	// A better kind is the better anchor, however young.
	national := build(older, younger, together("3", 30, ident(Phone, 1), ident(NationalID, 5)))
	if got := person(t, national, ident(Email, 9)); got != FCIDOf(ident(NationalID, 5)) {
		t.Errorf("FCID %s, want the national id's", got)
	}
}

func TestSplitKeepsTheAnchorsSide(t *testing.T) {
	anchor := together("1", 10, ident(Email, 1), ident(Phone, 1))
	other := together("2", 20, ident(Email, 2), ident(Phone, 2))
	link := together("3", 30, ident(Phone, 1), ident(Phone, 2))
	before := build(anchor, other, link)
	whole := person(t, before, ident(Email, 1))
	if person(t, before, ident(Email, 2)) != whole {
		t.Fatal("the link does not join")
	}
	gone := link
	gone.Relation, gone.Identifiers, gone.ObservedAt = event.RelationWithdrawn, nil, 40
	after := build(anchor, other, link, gone)
	if got := person(t, after, ident(Phone, 1)); got != whole {
		t.Errorf("the anchor's side has %s, want %s", got, whole)
	}
	split := person(t, after, ident(Phone, 2))
	if split == whole || split != FCIDOf(ident(Email, 2)) {
		t.Errorf("the other side has %s", split)
	}
	c := Diff(before.Graph, after.Graph, ofAcme([][]Identifier{{ident(Phone, 1)}, {ident(Phone, 2)}, {ident(Email, 2)}}))
	if len(c.Split) != 1 || !reflect.DeepEqual(c.Split[0], Move{From: whole, To: split, Records: 2, Accounts: []string{"acme"}}) || len(c.Merged) != 0 || c.Moved != 2 {
		t.Errorf("diff: %+v", c)
	}
}

func TestSharedIdentifiersJoinNobody(t *testing.T) {
	var evidence []Evidence
	for i := range MaxStrong + 1 {
		evidence = append(evidence, together(fmt.Sprint("family", i), 1, ident(Phone, 99), ident(NameBirthdate, i)))
		evidence = append(evidence, together(fmt.Sprint("few", i), 1, ident(Phone, i), ident(NationalID, 100+i/MaxStrong), ident(Email, i)))
	}
	for i := range MaxWeak + 1 {
		evidence = append(evidence, together(fmt.Sprint("info", i), 1, ident(Email, 99), ident(MAID, i), ident(Record, i)))
	}
	g := build(evidence...)
	for _, id := range []Identifier{ident(Phone, 99), ident(Email, 99)} {
		if _, known, isShared := g.Lookup(id); !known || !isShared {
			t.Errorf("%v is not neutralised", id.Kind)
		}
	}
	if g.Stats().Shared != 2 {
		t.Errorf("%d shared identifiers, want 2", g.Stats().Shared)
	}
	if person(t, g, ident(NameBirthdate, 0)) == person(t, g, ident(NameBirthdate, 1)) {
		t.Error("a shared phone joins two persons")
	}
	if got, _ := g.Resolve([]Identifier{ident(Phone, 99), ident(Record, 7777)}); got != FCIDOf(ident(Record, 7777)) {
		t.Error("a shared identifier became an anchor")
	}
	// One below the limit still joins.
	if below := build(evidence[:2*MaxStrong]...); person(t, below, ident(NameBirthdate, 0)) != person(t, below, ident(NameBirthdate, 1)) {
		t.Error("an identifier of few persons does not join")
	}
}

func TestApart(t *testing.T) {
	strong := together("1", 5, ident(Email, 1), ident(Phone, 1))
	weak := together("2", 1, ident(Phone, 1), ident(Email, 2))
	weak.Weight = 0.6
	apart := Evidence{ID: "3", Relation: event.RelationApart, Weight: 1, Identifiers: []Identifier{ident(Email, 1), ident(Email, 2)}}
	if g := build(strong, weak); person(t, g, ident(Email, 1)) != person(t, g, ident(Email, 2)) {
		t.Fatal("without the evidence they are one person")
	}
	g := build(strong, weak, apart)
	if person(t, g, ident(Email, 1)) == person(t, g, ident(Email, 2)) {
		t.Error("identifiers that are apart are one person")
	}
	if person(t, g, ident(Phone, 1)) != person(t, g, ident(Email, 1)) {
		t.Error("the stronger evidence was left out")
	}
	// Also when what joins them comes in between, over several steps.
	g = build(strong, apart, together("4", 9, ident(Phone, 1), ident(MAID, 1)), together("5", 9, ident(MAID, 2), ident(Email, 2)),
		together("6", 10, ident(MAID, 1), ident(MAID, 2)))
	if person(t, g, ident(Email, 1)) == person(t, g, ident(Email, 2)) || person(t, g, ident(MAID, 2)) != person(t, g, ident(Email, 2)) {
		t.Error("a chain joins what is apart")
	}
}

func TestResolve(t *testing.T) {
	g := build(together("1", 1, ident(Email, 1), ident(Phone, 1)), together("2", 1, ident(Phone, 2)))
	for _, c := range []struct {
		name string
		ids  []Identifier
		want Identifier
	}{
		{"known", []Identifier{ident(Phone, 1)}, ident(Email, 1)},
		{"the least known wins over an unknown before it", []Identifier{ident(NationalID, 8), ident(Phone, 1), ident(Phone, 2)}, ident(Email, 1)},
		{"unknown: own anchor", []Identifier{ident(Email, 7), ident(Phone, 7)}, ident(Email, 7)},
	} {
		if got, ok := g.Resolve(c.ids); !ok || got != FCIDOf(c.want) {
			t.Errorf("%s: %s", c.name, got)
		}
		if got, ok := Genesis().Resolve(c.ids); !ok || got != FCIDOf(c.ids[0]) {
			t.Errorf("genesis, %s: %s", c.name, got)
		}
	}
	if _, ok := g.Resolve(nil); ok {
		t.Error("nothing was resolved to somebody")
	}
}

func TestFileFindsEverythingAndRefusesDamage(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var evidence []Evidence
	for i := range 5000 {
		evidence = append(evidence, together(fmt.Sprint(i), 1, ident(Kind(r.IntN(int(kinds))), r.IntN(1<<30)), ident(Email, r.IntN(3000))))
	}
	built := build(evidence...)
	g, err := Open(built.File)
	if err != nil {
		t.Fatal(err)
	}
	if g.Stats() != built.Stats() {
		t.Errorf("stats %+v, want %+v", g.Stats(), built.Stats())
	}
	for _, e := range evidence {
		for _, id := range e.Identifiers {
			if _, known, _ := g.Lookup(id); !known {
				t.Fatal("an identifier is not found")
			}
		}
	}
	for i := range 5000 {
		if _, known, _ := g.Lookup(ident(Social, 1<<40+i)); known {
			t.Fatal("an unknown identifier is found")
		}
	}
	small := build(evidence[:3]...).File
	for i := range small {
		bad := bytes.Clone(small)
		bad[i] ^= 0x40
		want := ErrCorrupt
		if i == len(magic) {
			want = ErrFormat
		}
		if _, err := Open(bad); !errors.Is(err, want) {
			t.Fatalf("byte %d changed: %v", i, err)
		}
		if _, err := Open(small[:i]); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("cut at %d: %v", i, err)
		}
	}
	if empty := build(); len(empty.File) != headerSize+footerSize {
		t.Errorf("an empty graph has %d bytes", len(empty.File))
	}
}

// FCIDs and keys are a format that others can write: fixed values, computed by hand with sha256sum.
func TestFormatIsFixed(t *testing.T) {
	id := Identifier{Kind: Email, Hash: [16]byte{0: 1, 15: 2}}
	if got := FCIDOf(id).String(); got != wantFCID {
		t.Errorf("FCID %s", got)
	}
	if got := fmt.Sprintf("%x", keyOf(id)); got != wantKey {
		t.Errorf("key %s", got)
	}
	f, err := ParseFCID(FCIDOf(id).String())
	if err != nil || f != FCIDOf(id) {
		t.Errorf("parsed %s, %v", f, err)
	}
	for _, bad := range []string{"", "00", FCIDOf(id).String() + "00", "zz" + FCIDOf(id).String()[2:]} {
		if _, err := ParseFCID(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

const (
	wantFCID = "a03b95baa2951c3c23509667a5de4865"
	wantKey  = "c39f0bb14e509e271cc6c032c54a5a92"
)
