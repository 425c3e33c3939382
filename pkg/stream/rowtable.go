package stream

import (
	"hash/maphash"
	"math"
)

// row is a row in memory.
type row struct {
	data    []byte // the key, and behind it the committed value
	value   []byte // what the open transaction wrote, where the row is dirty; nil deletes it
	keySize int32
	next    int32 // place of another row, see rowTable
	exists  bool  // there is a committed value
	dirty   bool  // written by the open transaction
	pending bool  // written by a committed one, and not yet in Pebble
}

// rowOverhead is about what a row costs beside key and values.
const rowOverhead = 100

func (r *row) size() int { return len(r.data) + len(r.value) + rowOverhead }

// key never changes, and may be kept.
func (r *row) key() []byte { return r.data[:r.keySize:r.keySize] }

// now is the row's value as the open transaction sees it, nil where it does not exist.
func (r *row) now() []byte {
	if r.dirty {
		return r.value
	}
	return r.committed()
}

func (r *row) committed() []byte {
	if !r.exists {
		return nil
	}
	return r.data[r.keySize:len(r.data):len(r.data)]
}

// commit makes the written value the committed one.
func (r *row) commit() {
	r.exists = r.value != nil
	if n := int(r.keySize) + len(r.value); n > cap(r.data) {
		r.data = append(make([]byte, 0, n), r.key()...)
	}
	r.data = append(r.data[:r.keySize], r.value...)
	r.value, r.dirty = nil, false
}

// rowTable holds rows by key. A row has a place, from 1 on, while it is in it. There are many, and the garbage collector has little to
// follow: the index holds hashes, and a row's key and value are one piece.
type rowTable struct {
	seed  maphash.Seed
	bits  uint64           // of a hash that are used: all, but in tests
	index map[uint64]int32 // place of the first row whose key has a hash; next is that of another one
	rows  []row
	free  int32 // the first place that was given up; next is that of another one
}

func newRowTable() *rowTable {
	return &rowTable{seed: maphash.MakeSeed(), bits: math.MaxUint64, index: map[uint64]int32{}}
}

func (t *rowTable) hash(key []byte) uint64 { return maphash.Bytes(t.seed, key) & t.bits }

// at returns a row. The pointer is valid until another one is added.
func (t *rowTable) at(place int32) *row { return &t.rows[place-1] }

// find returns the place of a key's row, and 0 where there is none.
func (t *rowTable) find(key []byte) int32 {
	place := t.index[t.hash(key)]
	for place != 0 && string(t.at(place).key()) != string(key) {
		place = t.at(place).next
	}
	return place
}

// add adds a row that does not exist, for a key that has none here. There will be room for a value of a size beside the key.
func (t *rowTable) add(key []byte, size int) int32 {
	place := t.free
	if place != 0 {
		t.free = t.at(place).next
	} else {
		t.rows = append(t.rows, row{})
		place = int32(len(t.rows))
	}
	hash := t.hash(key)
	*t.at(place) = row{data: append(make([]byte, 0, len(key)+size), key...), keySize: int32(len(key)), next: t.index[hash]}
	t.index[hash] = place
	return place
}

// remove gives a row's place up.
func (t *rowTable) remove(place int32) {
	r := t.at(place)
	hash := t.hash(r.key())
	switch first := t.index[hash]; {
	case first != place:
		before := t.at(first)
		for before.next != place {
			before = t.at(before.next)
		}
		before.next = r.next
	case r.next != 0:
		t.index[hash] = r.next
	default:
		delete(t.index, hash)
	}
	*r = row{next: t.free}
	t.free = place
}
