package usageaggregator

import "encoding/binary"

// filter is a Bloom filter of ids that never changes, two bytes for each: about one false yes in a thousand. An id's bits are
// all in one cache line.
type filter []uint64

const (
	lineWords    = 8
	idsOfLine    = lineWords * 64 / 16
	bitsOfFilter = 5
)

func newFilter(ids []seenID) filter {
	lines := (len(ids) + idsOfLine - 1) / idsOfLine
	f := make(filter, lines*lineWords)
	for i := range ids {
		line, bits := f.place(ids[i].id)
		for range bitsOfFilter {
			f[line+int(bits>>6&7)] |= 1 << (bits & 63)
			bits >>= 9
		}
	}
	return f
}

func (f filter) append(dst []byte) []byte {
	for _, word := range f {
		dst = binary.BigEndian.AppendUint64(dst, word)
	}
	return dst
}

func readFilter(b []byte) filter {
	f := make(filter, len(b)/8)
	for i := range f {
		f[i] = binary.BigEndian.Uint64(b[8*i:])
	}
	return f
}

// place takes bits of the id that neither choose its part nor its page: both use the first ones.
func (f filter) place(i id) (line int, bits uint64) {
	return int(uint64(i.lo)*uint64(len(f)/lineWords)>>32) * lineWords, i.hi & (1<<(9*bitsOfFilter) - 1)
}

// has is false where the id is certainly not among them.
func (f filter) has(i id) bool {
	if len(f) == 0 {
		return false
	}
	line, bits := f.place(i)
	for range bitsOfFilter {
		if f[line+int(bits>>6&7)]&(1<<(bits&63)) == 0 {
			return false
		}
		bits >>= 9
	}
	return true
}
