package usageaggregator

import "hash/maphash"

// filter is a Bloom filter of the ids of one bucket: where it says no, the store need not be asked, and almost every id is
// new. It grows by parts up to a bound; beyond that it says that an id may be there, which costs a look-up and is never wrong.
type filter struct {
	seed  maphash.Seed
	parts []*[filterWords]uint64
	n     int // ids in the newest part
	full  bool
}

const (
	filterWords = 1 << 15 // 256 KiB a part
	filterIDs   = 150_000 // in a part: 14 bits for each, about one false yes in 800
	filterParts = 8       // 1.2 million ids, 2 MiB
	filterBits  = 4       // for each id, all in one cache line of 8 words
)

func newFilter() *filter { return &filter{seed: maphash.MakeSeed()} }

// bits returns the cache line of an id and its bits in it.
func (f *filter) bits(id []byte) (line int, bits [filterBits]uint16) {
	h := maphash.Bytes(f.seed, id)
	line = int(h % (filterWords / 8))
	h >>= 16
	for i := range bits {
		bits[i] = uint16(h & 511)
		h >>= 9
	}
	return line, bits
}

// has is false where the id was certainly not added.
func (f *filter) has(id []byte) bool {
	if f.full {
		return true
	}
	line, bits := f.bits(id)
next:
	for _, part := range f.parts {
		for _, b := range bits {
			if part[line*8+int(b>>6)]&(1<<(b&63)) == 0 {
				continue next
			}
		}
		return true
	}
	return false
}

func (f *filter) add(id []byte) {
	if f.full {
		return
	}
	if len(f.parts) == 0 || f.n == filterIDs {
		if len(f.parts) == filterParts {
			f.full, f.parts = true, nil
			return
		}
		f.parts, f.n = append(f.parts, new([filterWords]uint64)), 0
	}
	line, bits := f.bits(id)
	part := f.parts[len(f.parts)-1]
	for _, b := range bits {
		part[line*8+int(b>>6)] |= 1 << (b & 63)
	}
	f.n++
}
