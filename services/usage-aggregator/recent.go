package usageaggregator

import "math/bits"

// recent holds ids of a part and when their newest events were appended: an open hash table in which an id's own bits, those of a
// keyed hash, say where to look first. So the ids are nearly in order.
type recent struct {
	cells []cell
	n     int   // of them are used
	base  int64 // ms; see cell
}

type cell struct {
	hi uint64
	lo uint32
	at uint32 // ms behind base, 0 where the cell is free
}

const (
	fewestCells = 64
	mostCells   = 4 * gatherIDs // kept where they are free
)

// cell returns where an id is, or the free one where it belongs. There is always a free one.
func (r *recent) cell(i id) *cell {
	at, _ := bits.Mul64(i.hi<<partBits, uint64(len(r.cells)))
	for {
		if s := &r.cells[at]; s.at == 0 || s.hi == i.hi && s.lo == i.lo {
			return s
		}
		if at++; at == uint64(len(r.cells)) {
			at = 0
		}
	}
}

func (r *recent) find(i id) (at int64, ok bool) {
	if r.n == 0 {
		return 0, false
	}
	s := r.cell(i)
	return r.base + int64(s.at), s.at != 0
}

func (r *recent) put(i id, at int64) {
	switch behind := at - r.base; {
	case r.n+r.n/3 >= len(r.cells):
		r.remake(max(fewestCells, len(r.cells)/2*3), at)
	case behind <= 0 || behind >= 1<<32:
		r.remake(len(r.cells), at)
	}
	s := r.cell(i)
	if s.at == 0 {
		r.n++
	}
	*s = cell{i.hi, i.lo, uint32(at - r.base)}
}

// remake makes a table of a size, for append times 24 days around a moment: no window is as long, so that ids of other times are of no
// use. Parts are moved long before (see seen.collect).
func (r *recent) remake(cells int, at int64) {
	old := *r
	*r = recent{cells: make([]cell, cells), base: at - 1<<31}
	old.each(func(i id, at int64) {
		if behind := at - r.base; behind > 0 && behind < 1<<32 {
			*r.cell(i) = cell{i.hi, i.lo, uint32(behind)}
			r.n++
		}
	})
}

func (r *recent) each(do func(i id, at int64)) {
	for n := range r.cells {
		if s := &r.cells[n]; s.at != 0 {
			do(id{s.hi, s.lo}, r.base+int64(s.at))
		}
	}
}

// clear forgets all ids. It keeps the memory, unless that is far more than usual.
func (r *recent) clear() {
	if r.n = 0; len(r.cells) > mostCells {
		r.cells = nil
	}
	clear(r.cells)
}
