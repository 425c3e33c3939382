package graph

import (
	"slices"

	"databus/schemas/event"
)

// Set is a set of evidence, one piece for each id. It is kept in few large arrays, because there may be tens of millions. It
// belongs to one goroutine.
type Set struct {
	at      map[string]int32 // position of an id in pieces
	pieces  []Evidence
	arena   []Identifier      // what is left of the array from which new pieces take theirs
	sources map[string]string // each once
}

// arenaSize is how many identifiers are allocated at a time.
const arenaSize = 1 << 14

// NewSet returns an empty set.
func NewSet() *Set { return &Set{at: map[string]int32{}, sources: map[string]string{}} }

// Get returns a piece, whose identifiers must not be changed.
func (s *Set) Get(id string) (Evidence, bool) {
	i, ok := s.at[id]
	if !ok {
		return Evidence{}, false
	}
	return s.pieces[i], true
}

// Put adds a piece, or replaces the one of its id. It keeps nothing of the argument's memory but the id.
func (s *Set) Put(e Evidence) {
	if known, ok := s.sources[e.Source]; ok {
		e.Source = known
	} else {
		s.sources[e.Source] = e.Source
	}
	i, ok := s.at[e.ID]
	var room []Identifier
	if ok {
		e.ID, room = s.pieces[i].ID, s.pieces[i].Identifiers
	}
	n := len(e.Identifiers)
	switch {
	case n <= cap(room): // of the piece that is replaced
		room = room[:n]
	case n > arenaSize:
		room = make([]Identifier, n)
	default:
		if len(s.arena) < n {
			s.arena = make([]Identifier, arenaSize)
		}
		room = s.arena[:n:n]
		s.arena = s.arena[n:]
	}
	copy(room, e.Identifiers)
	e.Identifiers = room
	if ok {
		s.pieces[i] = e
		return
	}
	s.at[e.ID] = int32(len(s.pieces))
	s.pieces = append(s.pieces, e)
}

// Delete removes a piece.
func (s *Set) Delete(id string) {
	i, ok := s.at[id]
	if !ok {
		return
	}
	last := len(s.pieces) - 1
	if int(i) != last {
		s.pieces[i] = s.pieces[last]
		s.at[s.pieces[i].ID] = i
	}
	s.pieces = slices.Delete(s.pieces, last, last+1)
	delete(s.at, id)
}

// Len is the number of pieces, the withdrawn included.
func (s *Set) Len() int { return len(s.pieces) }

// counts says whether a piece says anything: it is not withdrawn and not too weak.
func (e *Evidence) counts() bool {
	return e.Relation != event.RelationWithdrawn && e.Weight >= MinWeight && len(e.Identifiers) > 0
}
