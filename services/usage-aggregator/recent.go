package usageaggregator

import "math/bits"

// recent holds ids of a part and when their newest events were appended: an open hash table in which an id's own bits, those of a
// keyed hash, say where to look first. So the ids are nearly in order.
type recent struct {
	slots []recentID
	n     int   // of them are used
	base  int64 // ms; see recentID
}

type recentID struct {
	hi uint64
	lo uint32
	at uint32 // ms behind base, 0 where the slot is free
}

const fewestSlots = 64

// slot returns where an id is, or the free slot where it belongs. There is always a free one.
func (r *recent) slot(i id) *recentID {
	at, _ := bits.Mul64(i.hi<<partBits, uint64(len(r.slots)))
	for {
		if s := &r.slots[at]; s.at == 0 || s.hi == i.hi && s.lo == i.lo {
			return s
		}
		if at++; at == uint64(len(r.slots)) {
			at = 0
		}
	}
}

func (r *recent) find(i id) (at int64, ok bool) {
	if r.n == 0 {
		return 0, false
	}
	s := r.slot(i)
	return r.base + int64(s.at), s.at != 0
}

func (r *recent) put(i id, at int64) {
	switch behind := at - r.base; {
	case r.n+r.n/3 >= len(r.slots):
		r.remake(max(fewestSlots, len(r.slots)/2*3), at)
	case behind <= 0 || behind >= 1<<32:
		r.remake(len(r.slots), at)
	}
	s := r.slot(i)
	if s.at == 0 {
		r.n++
	}
	*s = recentID{i.hi, i.lo, uint32(at - r.base)}
}

// remake makes a table of a size, for append times 24 days around a moment: no window is as long, so that ids of other times are of no
// use.
func (r *recent) remake(slots int, at int64) {
	old := *r
	*r = recent{slots: make([]recentID, slots), base: at - 1<<31}
	old.each(func(i id, at int64) {
		if behind := at - r.base; behind > 0 && behind < 1<<32 {
			*r.slot(i) = recentID{i.hi, i.lo, uint32(behind)}
			r.n++
		}
	})
}

func (r *recent) each(do func(i id, at int64)) {
	for n := range r.slots {
		if s := &r.slots[n]; s.at != 0 {
			do(id{s.hi, s.lo}, r.base+int64(s.at))
		}
	}
}

// clear forgets all ids and keeps the memory.
func (r *recent) clear() {
	clear(r.slots)
	r.n = 0
}
