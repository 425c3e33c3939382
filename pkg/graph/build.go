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
	return Evidence{ID: o.EvidenceID, Relation: o.Relation, Identifiers: ids, Weight: o.Weight,
		FirstSeen: o.FirstSeen.UnixMicro(), ObservedAt: o.ObservedAt.UnixMicro()}, nil
}

// compare orders evidence of one id by age, then by content, so that the newest is the same in whatever order they come.
func (e Evidence) compare(o Evidence) int {
	return cmp.Or(cmp.Compare(e.ObservedAt, o.ObservedAt), cmp.Compare(e.Relation, o.Relation), cmp.Compare(e.FirstSeen, o.FirstSeen),
		cmp.Compare(e.Weight, o.Weight), slices.CompareFunc(e.Identifiers, o.Identifiers, Identifier.Compare))
}

// Built is a graph and the file that holds it.
type Built struct {
	*Graph
	File []byte
}

// node is an identifier while a graph is built; nodes are in the order of Identifier.Compare.
type node struct {
	id        Identifier
	firstSeen int64
	parent    int32
	anchor    int32 // of a root: the node with the least (kind, first-seen, hash)
	shared    bool
	apart     []int32 // of a root: nodes that must stay outside
}

// edge is TOGETHER evidence between two identifiers.
type edge struct {
	a, b      int32
	weight    float64
	firstSeen int64
}

type builder struct {
	nodes []node
	edges []edge
}

// Build computes the graph of a set of evidence. Of several pieces with one id the newest counts. The order is irrelevant.
//
// Identifiers that are together in a piece of evidence are one person's, unless they are shared. Where evidence sets
// two identifiers apart, the edge that would join their persons is left out; edges are taken in order of weight
// (strongest first), first-seen time and hash, so the same one is left out each time.
func Build(evidence iter.Seq[Evidence]) *Built {
	newest := map[string]Evidence{}
	for e := range evidence {
		if old, ok := newest[e.ID]; !ok || old.compare(e) < 0 {
			newest[e.ID] = e
		}
	}
	var b builder
	ordered := make([]Evidence, 0, len(newest))
	for _, e := range newest {
		if e.Relation != event.RelationWithdrawn && e.Weight >= MinWeight && len(e.Identifiers) > 0 {
			ordered = append(ordered, e)
		}
	}
	slices.SortFunc(ordered, func(x, y Evidence) int { return strings.Compare(x.ID, y.ID) })
	b.intern(ordered)
	b.neutralise(ordered)
	b.join(ordered)
	return b.finish()
}

// intern gives each identifier that is together with others (or alone) its node. Identifiers that only occur in APART
// evidence are not known to the graph.
func (b *builder) intern(ordered []Evidence) {
	first := map[Identifier]int64{}
	for _, e := range ordered {
		if e.Relation != event.RelationTogether {
			continue
		}
		for _, id := range e.Identifiers {
			if old, ok := first[id]; !ok || e.FirstSeen < old {
				first[id] = e.FirstSeen
			}
		}
	}
	b.nodes = make([]node, 0, len(first))
	for id, t := range first {
		b.nodes = append(b.nodes, node{id: id, firstSeen: t})
	}
	slices.SortFunc(b.nodes, func(x, y node) int { return x.id.Compare(y.id) })
	for i := range b.nodes {
		b.nodes[i].parent, b.nodes[i].anchor = int32(i), int32(i)
	}
}

// index finds an identifier's node; -1 where it has none.
func (b *builder) index(id Identifier) int32 {
	i, ok := slices.BinarySearchFunc(b.nodes, id, func(n node, id Identifier) int { return n.id.Compare(id) })
	if !ok {
		return -1
	}
	return int32(i)
}

// neutralise marks the identifiers that connect too many persons. A RECORD identifier says nothing about persons, so it
// is neither counted nor marked. Composites repeat what other identifiers say, many for each record, so they are marked but not
// counted.
func (b *builder) neutralise(ordered []Evidence) {
	type pair struct{ a, b int32 }
	seen := map[pair]struct{}{}
	strong, weak := make([]int32, len(b.nodes)), make([]int32, len(b.nodes))
	for _, e := range ordered {
		if e.Relation != event.RelationTogether {
			continue
		}
		for _, x := range e.Identifiers {
			if x.Kind == Record {
				continue
			}
			i := b.index(x)
			for _, y := range e.Identifiers {
				if y.Kind == Record || y.Kind == Composite || x == y {
					continue
				}
				p := pair{i, b.index(y)}
				if _, ok := seen[p]; ok {
					continue
				}
				seen[p] = struct{}{}
				if y.Kind == NationalID || y.Kind == NameBirthdate {
					strong[i]++
				} else {
					weak[i]++
				}
			}
		}
	}
	for i := range b.nodes {
		b.nodes[i].shared = strong[i] > MaxStrong || strong[i] == 0 && weak[i] > MaxWeak
	}
}

// join unites what is together and not kept apart.
func (b *builder) join(ordered []Evidence) {
	for _, e := range ordered {
		var known []int32
		for _, id := range e.Identifiers {
			if i := b.index(id); i >= 0 && !b.nodes[i].shared {
				known = append(known, i)
			}
		}
		switch e.Relation {
		case event.RelationTogether:
			for _, i := range known[min(1, len(known)):] {
				b.edges = append(b.edges, edge{known[0], i, e.Weight, e.FirstSeen})
			}
		case event.RelationApart:
			for _, x := range known {
				for _, y := range known {
					if x != y {
						b.nodes[x].apart = append(b.nodes[x].apart, y)
					}
				}
			}
		}
	}
	slices.SortFunc(b.edges, func(x, y edge) int {
		return cmp.Or(cmp.Compare(y.weight, x.weight), cmp.Compare(x.firstSeen, y.firstSeen), cmp.Compare(x.a, y.a), cmp.Compare(x.b, y.b))
	})
	for _, e := range b.edges {
		b.union(e.a, e.b)
	}
}

func (b *builder) root(i int32) int32 {
	for b.nodes[i].parent != i {
		b.nodes[i].parent = b.nodes[b.nodes[i].parent].parent
		i = b.nodes[i].parent
	}
	return i
}

// union joins two components unless evidence keeps them apart. Nodes know the nodes apart from them on both sides, so
// looking through one side's list is enough: the shorter.
func (b *builder) union(x, y int32) {
	x, y = b.root(x), b.root(y)
	if x == y {
		return
	}
	if len(b.nodes[x].apart) > len(b.nodes[y].apart) {
		x, y = y, x
	}
	for _, i := range b.nodes[x].apart {
		if b.root(i) == y {
			return
		}
	}
	// The one with the longer list stays the root; path halving keeps the trees flat.
	b.nodes[x].parent = y
	b.nodes[y].apart = append(b.nodes[y].apart, b.nodes[x].apart...)
	b.nodes[x].apart = nil
	if b.lessAnchor(b.nodes[x].anchor, b.nodes[y].anchor) {
		b.nodes[y].anchor = b.nodes[x].anchor
	}
}

func (b *builder) lessAnchor(x, y int32) bool {
	a, c := &b.nodes[x], &b.nodes[y]
	return cmp.Or(cmp.Compare(a.id.Kind, c.id.Kind), cmp.Compare(a.firstSeen, c.firstSeen), bytes.Compare(a.id.Hash[:], c.id.Hash[:])) < 0
}

func (b *builder) finish() *Built {
	stats := Stats{Identifiers: int64(len(b.nodes))}
	fcids := map[int32]FCID{}
	items := make([]item, len(b.nodes))
	for i := range b.nodes {
		items[i].key = keyOf(b.nodes[i].id)
		if b.nodes[i].shared {
			stats.Shared++
			continue
		}
		root := b.root(int32(i))
		fcid, ok := fcids[root]
		if !ok {
			fcid = FCIDOf(b.nodes[b.nodes[root].anchor].id)
			fcids[root] = fcid
		}
		items[i].fcid = fcid
	}
	stats.Persons = int64(len(fcids))
	file := encode(items, stats)
	g, err := Open(file)
	if err != nil {
		panic(fmt.Sprintf("a graph that was just built cannot be opened: %v", err)) // two identifiers with one SHA-256
	}
	return &Built{Graph: g, File: file}
}
