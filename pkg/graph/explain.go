package graph

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"databus/schemas/event"
)

// Text is the kind and the hash in hex, such as EMAIL:00112233445566778899aabbccddeeff.
func (i Identifier) Text() string { return i.Kind.String() + ":" + hex.EncodeToString(i.Hash[:]) }

// ParseIdentifier reads what Text wrote.
func ParseIdentifier(s string) (Identifier, error) {
	kind, digits, _ := strings.Cut(s, ":")
	hash, err := hex.DecodeString(digits)
	if err != nil {
		return Identifier{}, fmt.Errorf("%w: the hash is not hex", ErrIdentifier)
	}
	return identifierOf(kind, hash)
}

// Solved is a set's graph that can still say why. It is large: everything of the set and its graph.
type Solved struct{ b *solver }

// Solve computes the graph of the set, to explain it. The set must not change any more.
func (s *Set) Solve() *Solved { return &Solved{s.solve()} }

// Built is the graph, to be compared with a published one.
func (s *Solved) Built() *Built { return encoded(s.b.items()) }

// Explanation says why identifiers are one person's.
type Explanation struct {
	FCID   FCID
	Anchor Identifier
	// Members are the person's identifiers, the best anchors first.
	Members []Member
	// Evidence is every piece that names one of the members, the strongest and oldest first.
	Evidence []Piece
	// Shared are identifiers in that evidence that are neutralised: they join nobody.
	Shared []Neutral
	// Refused are pieces of that evidence of which an edge was left out because other evidence keeps its ends apart.
	Refused []string
}

// Member is one of a person's identifiers.
type Member struct {
	Identifier Identifier
	FirstSeen  int64 // microseconds since 1970 UTC
	Pieces     int   // of evidence that name it
}

// Piece is a piece of evidence.
type Piece struct {
	Evidence
	// Joins are its identifiers that belong to the person; of the others some are shared.
	Joins []Identifier
}

// Neutral is a shared identifier and how many distinct others it was seen with.
type Neutral struct {
	Identifier   Identifier
	Strong, Weak int
}

// Step is a piece of evidence on the way from one identifier to another.
type Step struct {
	From, To Identifier
	Piece    Evidence
}

var (
	// ErrNobody: no evidence that counts names this.
	ErrNobody = errors.New("no evidence names it")
	// ErrShared: an identifier is neutralised and belongs to nobody.
	ErrShared = errors.New("it connects too many persons, so it is neutralised and belongs to nobody")
	// ErrApart: two identifiers belong to different persons.
	ErrApart = errors.New("they are different persons")
)

// Person returns the identifier that is the anchor of a person.
func (s *Solved) Person(fcid FCID) (Identifier, error) {
	for n := range s.b.nodes {
		if node := &s.b.nodes[n]; node.parent == int32(n) && !node.shared && s.b.fcid(int32(n)) == fcid {
			return s.b.nodes[node.anchor].id, nil
		}
	}
	return Identifier{}, fmt.Errorf("person %s: %w", fcid, ErrNobody)
}

// Piece returns the identifiers of a piece of evidence that counts.
func (s *Solved) Piece(id string) ([]Identifier, error) {
	for _, p := range s.b.used {
		if e := &s.b.pieces[p]; e.ID == id && e.Relation == event.RelationTogether {
			return e.Identifiers, nil
		}
	}
	return nil, fmt.Errorf("evidence %s: %w", id, ErrNobody)
}

// node finds an identifier that belongs to somebody.
func (s *Solved) node(id Identifier) (int32, error) {
	n := s.b.index(id)
	switch {
	case n < 0:
		return n, fmt.Errorf("%s: %w", id.Text(), ErrNobody)
	case s.b.nodes[n].shared:
		return n, fmt.Errorf("%s: %w", id.Text(), ErrShared)
	}
	return n, nil
}

// Explain says everything about the person of an identifier.
func (s *Solved) Explain(id Identifier) (*Explanation, error) {
	n, err := s.node(id)
	if err != nil {
		return nil, err
	}
	b := s.b
	root := b.root(n)
	x := &Explanation{FCID: b.fcid(root), Anchor: b.nodes[b.nodes[root].anchor].id}
	pieces, shared := map[int32]int{}, map[int32]bool{}
	for i, p := range b.used {
		e := &b.pieces[p]
		if e.Relation != event.RelationTogether {
			continue
		}
		piece := Piece{Evidence: *e}
		var others []int32
		refused := false
		for _, m := range b.of(i) {
			switch {
			case b.nodes[m].shared:
				others = append(others, m)
			case b.root(m) == root:
				pieces[m]++
				piece.Joins = append(piece.Joins, b.nodes[m].id)
			default:
				refused = true
			}
		}
		if len(piece.Joins) == 0 {
			continue
		}
		for _, m := range others {
			shared[m] = true
		}
		if refused {
			x.Refused = append(x.Refused, e.ID)
		}
		x.Evidence = append(x.Evidence, piece)
	}
	for m, count := range pieces {
		x.Members = append(x.Members, Member{b.nodes[m].id, b.nodes[m].firstSeen, count})
	}
	slices.SortFunc(x.Members, func(a, c Member) int {
		return cmp.Or(cmp.Compare(a.Identifier.Kind, c.Identifier.Kind), cmp.Compare(a.FirstSeen, c.FirstSeen), bytes.Compare(a.Identifier.Hash[:], c.Identifier.Hash[:]))
	})
	slices.SortFunc(x.Evidence, func(a, c Piece) int {
		return cmp.Or(cmp.Compare(c.Weight, a.Weight), cmp.Compare(a.FirstSeen, c.FirstSeen), strings.Compare(a.ID, c.ID))
	})
	slices.Sort(x.Refused)
	x.Shared = s.neutral(shared)
	return x, nil
}

// neutral counts with whom shared identifiers were seen; up to the limit, for that decided.
func (s *Solved) neutral(shared map[int32]bool) []Neutral {
	if len(shared) == 0 {
		return nil
	}
	in := map[int32][]int32{}
	s.b.each(func(i int, n int32) {
		if shared[n] {
			in[n] = append(in[n], int32(i))
		}
	})
	var all []Neutral
	seenBy := make([]int32, len(s.b.nodes))
	for n := range shared {
		strong, weak := s.b.partners(n, in[n], seenBy)
		all = append(all, Neutral{s.b.nodes[n].id, strong, weak})
	}
	slices.SortFunc(all, func(a, c Neutral) int { return a.Identifier.Compare(c.Identifier) })
	return all
}

// Path is a shortest way of evidence from one identifier to another of the same person; of several of one length the one
// over the strongest, oldest evidence at each step.
func (s *Solved) Path(from, to Identifier) ([]Step, error) {
	start, err := s.node(from)
	if err != nil {
		return nil, err
	}
	end, err := s.node(to)
	if err != nil {
		return nil, err
	}
	b := s.b
	root := b.root(start)
	if b.root(end) != root {
		return nil, fmt.Errorf("%s and %s: %w", from.Text(), to.Text(), ErrApart)
	}
	// The person's pieces, the best first, and where each member occurs.
	var pieces []int
	for i, p := range b.used {
		if b.pieces[p].Relation == event.RelationTogether && slices.ContainsFunc(b.of(i), func(m int32) bool { return b.root(m) == root }) {
			pieces = append(pieces, i)
		}
	}
	slices.SortFunc(pieces, func(i, j int) int {
		e, o := &b.pieces[b.used[i]], &b.pieces[b.used[j]]
		return cmp.Or(cmp.Compare(o.Weight, e.Weight), cmp.Compare(e.FirstSeen, o.FirstSeen), strings.Compare(e.ID, o.ID))
	})
	in := map[int32][]int{}
	for _, i := range pieces {
		for _, m := range b.of(i) {
			in[m] = append(in[m], i)
		}
	}
	type arrival struct {
		from  int32
		piece int
	}
	came, passed := map[int32]arrival{start: {}}, map[int]bool{}
	for queue := []int32{start}; len(queue) > 0 && queue[0] != end; queue = queue[1:] {
		for _, i := range in[queue[0]] {
			if passed[i] {
				continue
			}
			passed[i] = true
			for _, m := range b.of(i) {
				if _, ok := came[m]; !ok && b.root(m) == root {
					came[m] = arrival{queue[0], i}
					queue = append(queue, m)
				}
			}
		}
	}
	var steps []Step
	for at := end; at != start; at = came[at].from {
		steps = append(steps, Step{b.nodes[came[at].from].id, b.nodes[at].id, b.pieces[b.used[came[at].piece]]})
	}
	slices.Reverse(steps)
	return steps, nil
}
