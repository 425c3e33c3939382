package graph

import (
	"bytes"
	"cmp"
	"fmt"
	"iter"
	"slices"
	"strings"

	"databus/schemas/event"
)

// Rules of neutralisation and of what counts as evidence. They are part of a graph version's meaning.
const (
	// MaxStrong: an identifier seen together with more distinct strong identifiers (national id, name and birth
	// date) than this is shared. One person has few of them, variants of spelling included.
	MaxStrong = 12
	// MaxWeak: where it is seen with no strong identifier at all, so many others make it shared.
	MaxWeak = 25
	// MinWeight: evidence that is weaker is left out.
	MinWeight = 0.5
)

// Evidence is an observation in the form that Build works on.
type Evidence struct {
	ID          string
	Source      string
	Relation    event.Relation
	Identifiers []Identifier // sorted
	Weight      float64
	FirstSeen   int64 // microseconds since 1970 UTC
	ObservedAt  int64
}

// FromObservation reads an observation.
func FromObservation(o *event.Observation) (Evidence, error) {
	ids, err := FromEvidence(o.Identifiers)
	if err != nil {
		return Evidence{}, fmt.Errorf("reading observation: %w", err)
	}
	return Evidence{ID: o.EvidenceID, Source: o.Source, Relation: o.Relation, Identifiers: ids, Weight: o.Weight,
		FirstSeen: o.FirstSeen.UnixMicro(), ObservedAt: o.ObservedAt.UnixMicro()}, nil
}

// compare orders evidence of one id by age, then by content, so that the newest is the same in whatever order they come.
func (e Evidence) compare(o Evidence) int {
	return cmp.Or(cmp.Compare(e.ObservedAt, o.ObservedAt), cmp.Compare(e.Relation, o.Relation), cmp.Compare(e.FirstSeen, o.FirstSeen),
		cmp.Compare(e.Weight, o.Weight), strings.Compare(e.Source, o.Source), slices.CompareFunc(e.Identifiers, o.Identifiers, Identifier.Compare))
}

// Built is a graph and the file that holds it.
type Built struct {
	*Graph
	File []byte
}

// Build computes the graph of a set of evidence. Of several pieces with one id the newest counts. The order is irrelevant.
//
// Identifiers that are together in a piece of evidence are one person's, unless they are shared. Where evidence sets
// two identifiers apart, the edge that would join their persons is left out; edges are taken in order of weight
// (strongest first), first-seen time and hash, so the same one is left out each time.
func Build(evidence iter.Seq[Evidence]) *Built {
	s := NewSet()
	for e := range evidence {
		if old, ok := s.Get(e.ID); !ok || old.compare(e) < 0 {
			s.Put(e)
		}
	}
	return s.Build()
}

// Build computes the graph of the set, see the function Build. Beside the set it takes about 100 bytes for each occurrence of an
// identifier, in a few large arrays.
func (s *Set) Build() *Built {
	b := s.solve()
	b.members, b.edges, b.apart = nil, nil, nil // the nodes are enough
	items, stats := b.items()
	b.nodes = nil
	return encoded(items, stats)
}

// node is an identifier while a graph is built; nodes are in the order of Identifier.Compare.
type node struct {
	id        Identifier
	shared    bool
	parent    int32
	anchor    int32 // of a root: the node with the least (kind, first-seen, hash)
	firstSeen int64
}

// edge is TOGETHER evidence between two identifiers.
type edge struct {
	a, b  int32
	piece int32
}

// solver computes a graph. Pieces are known by their position in the set.
type solver struct {
	pieces []Evidence
	// used are the pieces that count; members of the i-th are the nodes members[start[i]:start[i+1]], those of APART evidence
	// that have no node left out.
	used    []int32
	start   []int
	members []int32

	nodes []node
	edges []edge
	// apart has, for a root, the nodes that must stay outside.
	apart map[int32][]int32
}

func (s *Set) solve() *solver {
	b := &solver{pieces: s.pieces, apart: map[int32][]int32{}}
	for i := range s.pieces {
		if s.pieces[i].counts() {
			b.used = append(b.used, int32(i))
		}
	}
	b.intern()
	b.neutralise()
	b.join()
	return b
}

// of returns the members of a used piece.
func (b *solver) of(i int) []int32 { return b.members[b.start[i]:b.start[i+1]] }

// occurrence of an identifier in TOGETHER evidence.
type occurrence struct {
	id        Identifier
	at        int32 // in members
	firstSeen int64
}

// intern gives each identifier that is together with others (or alone) its node. Identifiers that only occur in APART
// evidence are not known to the graph. One sort finds the nodes and who refers to them, without a table of identifiers.
func (b *solver) intern() {
	total := 0
	for _, p := range b.used {
		total += len(b.pieces[p].Identifiers)
	}
	b.members = make([]int32, total)
	b.start = make([]int, len(b.used)+1)
	all := make([]occurrence, 0, total)
	at := 0
	for i, p := range b.used {
		e := &b.pieces[p]
		if e.Relation == event.RelationTogether {
			for k, id := range e.Identifiers {
				all = append(all, occurrence{id, int32(at + k), e.FirstSeen})
			}
		}
		at += len(e.Identifiers)
		b.start[i+1] = at
	}
	slices.SortFunc(all, func(x, y occurrence) int { return cmp.Or(x.id.Compare(y.id), cmp.Compare(x.firstSeen, y.firstSeen)) })
	distinct := 0
	for i := range all {
		if i == 0 || all[i].id != all[i-1].id {
			distinct++
		}
	}
	b.nodes = make([]node, 0, distinct)
	for i, o := range all {
		if i == 0 || o.id != all[i-1].id {
			n := int32(len(b.nodes))
			b.nodes = append(b.nodes, node{id: o.id, firstSeen: o.firstSeen, parent: n, anchor: n})
		}
		b.members[o.at] = int32(len(b.nodes)) - 1
	}
	for i, p := range b.used {
		if e := &b.pieces[p]; e.Relation == event.RelationApart {
			for k, id := range e.Identifiers {
				b.members[b.start[i]+k] = b.index(id)
			}
		}
	}
}

// index finds an identifier's node; -1 where it has none.
func (b *solver) index(id Identifier) int32 {
	i, ok := slices.BinarySearchFunc(b.nodes, id, func(n node, id Identifier) int { return n.id.Compare(id) })
	if !ok {
		return -1
	}
	return int32(i)
}

// neutralise marks the identifiers that connect too many persons. A RECORD identifier says nothing about persons, so it
// is neither counted nor marked. Composites repeat what other identifiers say, many for each record, so they are marked but not
// counted.
func (b *solver) neutralise() {
	// Where each node occurs, by counting: the pieces of node n are in[first[n]:first[n+1]].
	first := make([]int, len(b.nodes)+1)
	b.each(func(_ int, n int32) { first[n+1]++ })
	for n := range b.nodes {
		first[n+1] += first[n]
	}
	in, next := make([]int32, first[len(b.nodes)]), slices.Clone(first[:len(b.nodes)])
	b.each(func(i int, n int32) {
		in[next[n]] = int32(i)
		next[n]++
	})
	seenBy := make([]int32, len(b.nodes)) // the node, plus one, that counted this one last
	for n := range b.nodes {
		pieces := in[first[n]:first[n+1]]
		b.nodes[n].shared = b.nodes[n].id.Kind != Record && tooMany(b.partners(int32(n), pieces, seenBy))
	}
}

// each calls fn with each occurrence of a node in TOGETHER evidence.
func (b *solver) each(fn func(i int, n int32)) {
	for i, p := range b.used {
		if b.pieces[p].Relation == event.RelationTogether {
			for _, n := range b.of(i) {
				fn(i, n)
			}
		}
	}
}

// partners counts the distinct identifiers with which a node occurs. It stops when there are too many.
func (b *solver) partners(n int32, pieces []int32, seenBy []int32) (strong, weak int) {
	for _, i := range pieces {
		for _, o := range b.of(int(i)) {
			kind := b.nodes[o].id.Kind
			if o == n || kind == Record || kind == Composite || seenBy[o] == n+1 {
				continue
			}
			seenBy[o] = n + 1
			if kind == NationalID || kind == NameBirthdate {
				strong++
			} else {
				weak++
			}
		}
		if strong > MaxStrong {
			break
		}
	}
	return strong, weak
}

// tooMany says whether an identifier that occurs with so many others is shared.
func tooMany(strong, weak int) bool { return strong > MaxStrong || strong == 0 && weak > MaxWeak }

// join unites what is together and not kept apart.
func (b *solver) join() {
	for i, p := range b.used {
		known := slices.DeleteFunc(slices.Clone(b.of(i)), func(n int32) bool { return n < 0 || b.nodes[n].shared })
		switch b.pieces[p].Relation {
		case event.RelationTogether:
			for _, n := range known[min(1, len(known)):] {
				b.edges = append(b.edges, edge{known[0], n, p})
			}
		case event.RelationApart:
			for _, x := range known {
				for _, y := range known {
					if x != y {
						b.apart[x] = append(b.apart[x], y)
					}
				}
			}
		}
	}
	slices.SortFunc(b.edges, func(x, y edge) int {
		e, o := &b.pieces[x.piece], &b.pieces[y.piece]
		return cmp.Or(cmp.Compare(o.Weight, e.Weight), cmp.Compare(e.FirstSeen, o.FirstSeen), cmp.Compare(x.a, y.a), cmp.Compare(x.b, y.b), strings.Compare(e.ID, o.ID))
	})
	for _, e := range b.edges {
		b.union(e.a, e.b)
	}
}

func (b *solver) root(i int32) int32 {
	for b.nodes[i].parent != i {
		b.nodes[i].parent = b.nodes[b.nodes[i].parent].parent
		i = b.nodes[i].parent
	}
	return i
}

// union joins two components unless evidence keeps them apart. Nodes know the nodes apart from them on both sides, so
// looking through one side's list is enough: the shorter.
func (b *solver) union(x, y int32) {
	x, y = b.root(x), b.root(y)
	if x == y {
		return
	}
	if len(b.apart[x]) > len(b.apart[y]) {
		x, y = y, x
	}
	for _, i := range b.apart[x] {
		if b.root(i) == y {
			return
		}
	}
	// The one with the longer list stays the root; path halving keeps the trees flat.
	b.nodes[x].parent = y
	if list := b.apart[x]; len(list) > 0 {
		b.apart[y] = append(b.apart[y], list...)
		delete(b.apart, x)
	}
	if b.lessAnchor(b.nodes[x].anchor, b.nodes[y].anchor) {
		b.nodes[y].anchor = b.nodes[x].anchor
	}
}

func (b *solver) lessAnchor(x, y int32) bool {
	a, c := &b.nodes[x], &b.nodes[y]
	return cmp.Or(cmp.Compare(a.id.Kind, c.id.Kind), cmp.Compare(a.firstSeen, c.firstSeen), bytes.Compare(a.id.Hash[:], c.id.Hash[:])) < 0
}

// fcid of a person, by its root.
func (b *solver) fcid(root int32) FCID { return FCIDOf(b.nodes[b.nodes[root].anchor].id) }

// items are the entries of the graph's file.
func (b *solver) items() ([]item, Stats) {
	stats := Stats{Identifiers: int64(len(b.nodes))}
	items := make([]item, len(b.nodes))
	for i := range b.nodes {
		n := int32(i)
		items[i].key = keyOf(b.nodes[i].id)
		switch {
		case b.nodes[i].shared:
			stats.Shared++
		case b.root(n) == n:
			stats.Persons++
			items[i].fcid = b.fcid(n)
		}
	}
	for i := range b.nodes {
		if !b.nodes[i].shared {
			items[i].fcid = items[b.root(int32(i))].fcid
		}
	}
	return items, stats
}

func encoded(items []item, stats Stats) *Built {
	file := encode(items, stats)
	g, err := Open(file)
	if err != nil {
		panic(fmt.Sprintf("a graph that was just built cannot be opened: %v", err)) // two identifiers with one SHA-256
	}
	return &Built{Graph: g, File: file}
}
