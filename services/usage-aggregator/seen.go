package usageaggregator

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"math"
	"slices"

	"github.com/dchest/siphash"
)

// rows is what the set needs of a transaction.
type rows interface {
	Get(store string, key []byte) ([]byte, error)
	Put(store string, key, value []byte)
	Delete(store string, key []byte)
	Scan(store string, prefix []byte, each func(key, value []byte) bool) error
	ScanFrom(store string, prefix, from []byte, each func(key, value []byte) bool) error
}

// seen are the ids of the events that were appended within the window before the newest one. An event is a repeat if its id
// occurred within the window before it, so the set is a function of the window's events alone, and reading them again makes it anew.
//
// New ids are collected in memory, and in tail rows, which a restart reads. What is collected of a part is moved to the pages of its
// buckets once it is enough; at the end of a transaction that has many ids everything is, and its tail rows are not written. Memory is
// bounded: about a hundred thousand ids are collected beside those of a transaction, and of the others it has filters, two bytes an id;
// with pages that are not in Pebble's cache a look-up reads the disk. Keys of the store:
//
//	's'                        the secret
//	't' number, 4 bytes        a tail row: ids and append times, 20 bytes each
//	'p' bucket, part, run, page   a page, or the run's filter, see run
type seen struct {
	window int64 // ms; 0 turns it off
	gather int   // ids that a part collects, about
	opened bool
	k0, k1 uint64
	secret []byte // a new one that is to be written

	buckets []*bucket // in order of time
	recent  [parts]recent
	since   [parts]uint32 // number of the tail row with the oldest id that is collected
	oldest  [parts]int64  // when that was appended, ms
	full    []int         // parts that have collected enough, or for long enough

	added   int      // ids of the transaction; from s.many() on they are not in tail rows
	tail    []byte   // the newest tail row
	grown   bool     // since it was written
	long    [][]byte // the tail rows before it that are to be written
	tails   uint32   // number of the newest tail row
	first   uint32   // number of the oldest one
	newest  int64    // append time of the newest event, ms
	expired []int64
	key     []byte // reused, as ids and numbers
	ids     []seenID
	numbers []int64
}

const (
	gatherIDs = 1024
	tailEntry = 20
	tailBytes = 64 << 10
	pruneKeys = 500 // deleted in one transaction
	idsOfRow  = 32  // in a transaction as much as a row that is to be produced: they bound it as well
)

func newSeen(window int64) seen { return seen{window: window, gather: gatherIDs} }

func tailKey(n uint32) []byte { return binary.BigEndian.AppendUint32([]byte{'t'}, n) }

// open reads what is there.
func (s *seen) open(rows rows) error {
	secret, err := rows.Get(storeSeen, []byte("s"))
	if err != nil {
		return err
	}
	if len(secret) != 16 {
		secret = make([]byte, 16)
		rand.Read(secret) // never fails
		s.secret = secret
	}
	s.k0, s.k1 = binary.BigEndian.Uint64(secret), binary.BigEndian.Uint64(secret[8:])
	for i := range s.recent {
		s.recent[i].clear()
	}
	s.buckets, s.full, s.tail, s.long, s.grown, s.tails, s.first, s.expired = nil, nil, nil, nil, false, 0, 0, nil
	// From bucket to bucket, over their pages.
	for next, more := int64(0), true; more; {
		more = false
		err := rows.ScanFrom(storeSeen, []byte("p"), pagesOf(nil, next), func(key, _ []byte) bool {
			if more = len(key) == pageKeySize; more {
				b := &bucket{number: int64(binary.BigEndian.Uint32(key[1:]))}
				s.buckets, next = append(s.buckets, b), b.number+1
			}
			return false
		})
		if err != nil {
			return err
		}
	}
	some := false
	err = rows.Scan(storeSeen, []byte("t"), func(key, row []byte) bool {
		s.tails = binary.BigEndian.Uint32(key[1:])
		if !some {
			some, s.first = true, s.tails
		}
		for len(row) >= tailEntry {
			i := id{binary.BigEndian.Uint64(row), binary.BigEndian.Uint32(row[8:])}
			s.collect(i, int64(binary.BigEndian.Uint64(row[12:])))
			row = row[tailEntry:]
		}
		return true
	})
	if some {
		s.tails++
	}
	s.opened = err == nil
	return err
}

func (s *seen) collect(i id, at int64) {
	n := i.part()
	of := &s.recent[n]
	if of.n == 0 {
		s.since[n], s.oldest[n] = s.tails, at
	}
	before := of.n
	of.put(i, at)
	s.newest = max(s.newest, at)
	// Parts are not full all at once. One that collects slowly would keep tail rows, and ids that have expired.
	full := s.gather*3/4 + n*s.gather/(2*parts)
	if overdue := at-s.oldest[n] > s.window+bucketMillis; overdue || of.n == full && before < full {
		s.full = append(s.full, n)
		s.oldest[n] = math.MaxInt64 // once is enough
	}
}

// check says whether the id occurred within the window before at, milliseconds since 1970, and remembers that it occurred then.
// It writes no row, so that nothing of it is undone where the event is refused afterwards.
func (s *seen) check(rows rows, account, eventID string, at int64) (repeated bool, err error) {
	if s.window == 0 {
		return false, nil
	}
	if !s.opened {
		if err := s.open(rows); err != nil {
			return false, err
		}
	}
	at = max(at, 0)
	s.key = append(append(append(s.key[:0], account...), '/'), eventID...)
	h1, h2 := siphash.Hash128(s.k0, s.k1, s.key)
	i := id{h1, uint32(h2)}
	last, ok := s.recent[i.part()].find(i)
	// A leader change may turn append time back a little: look into the following bucket as well.
	for n := len(s.buckets) - 1; n >= 0 && !ok && s.buckets[n].number >= (at-s.window)/bucketMillis; n-- {
		if last, ok, err = s.buckets[n].find(rows, i); err != nil {
			return false, err
		}
	}
	if !ok || at > last {
		s.collect(i, at)
		s.append(i, at)
	}
	return ok && at-last < s.window, nil
}

// many is the number of ids with which a transaction moves everything.
func (s *seen) many() int { return s.gather * parts / 4 }

// append adds an id to the newest tail row, as long as the transaction is going to write that.
func (s *seen) append(i id, at int64) {
	switch s.added++; {
	case s.added < s.many():
		s.tail = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(s.tail, i.hi), i.lo), uint64(at))
		if s.grown = true; len(s.tail) >= tailBytes {
			s.long, s.tail, s.grown = append(s.long, s.tail), make([]byte, 0, tailBytes+tailEntry), false
			s.tails++
		}
	case s.added == s.many():
		s.long, s.tail, s.grown = nil, s.tail[:0], false
		s.tails++
	}
}

// keepTails writes tail rows, and begins another where the newest one is long enough.
func (s *seen) keepTails(rows rows) {
	for i, row := range s.long {
		rows.Put(storeSeen, tailKey(s.tails-uint32(len(s.long)-i)), row)
	}
	s.long = nil
	if !s.grown {
		return
	}
	rows.Put(storeSeen, tailKey(s.tails), bytes.Clone(s.tail))
	if s.grown = false; len(s.tail) >= tailBytes/4 {
		s.tail, s.tails = s.tail[:0], s.tails+1
	}
}

// finish writes what the transaction has changed.
func (s *seen) finish(rows rows) error {
	if !s.opened {
		return nil
	}
	if s.secret != nil {
		rows.Put(storeSeen, []byte("s"), s.secret)
		s.secret = nil
	}
	if s.added >= s.many() {
		s.full = s.full[:0]
		for n := range s.recent {
			s.full = append(s.full, n)
		}
	}
	s.added = 0
	s.keepTails(rows)
	for _, n := range s.full {
		if err := s.move(rows, n); err != nil {
			return err
		}
	}
	if len(s.full) > 0 {
		s.full = s.full[:0]
		s.dropTails(rows)
	}
	return s.prune(rows)
}

// move moves what is collected of a part to its pages.
func (s *seen) move(rows rows, n int) error {
	s.numbers = s.numbers[:0]
	s.recent[n].each(func(_ id, at int64) {
		if number := at / bucketMillis; s.newest-at < s.window+bucketMillis && !slices.Contains(s.numbers, number) {
			s.numbers = append(s.numbers, number)
		}
	})
	for _, number := range s.numbers {
		s.ids = s.ids[:0]
		s.recent[n].each(func(i id, at int64) {
			if at/bucketMillis == number {
				s.ids = append(s.ids, seenID{i, at})
			}
		})
		at, ok := slices.BinarySearchFunc(s.buckets, number, func(b *bucket, number int64) int { return int(b.number - number) })
		if !ok {
			s.buckets = slices.Insert(s.buckets, at, &bucket{number: number})
		}
		if err := s.buckets[at].add(rows, n, s.ids, s.gather); err != nil {
			return err
		}
	}
	s.recent[n].clear()
	return nil
}

// dropTails deletes tail rows whose ids are all in pages.
func (s *seen) dropTails(rows rows) {
	oldest := s.tails
	for n := range s.recent {
		if s.recent[n].n > 0 {
			oldest = min(oldest, s.since[n])
		}
	}
	for ; s.first < oldest; s.first++ {
		rows.Delete(storeSeen, tailKey(s.first))
	}
}

// prune deletes the pages of buckets that are wholly out of the window, with one bucket of slack for events that are a little
// late, some of them in each transaction. Only events cause it, like every change of state.
func (s *seen) prune(rows rows) error {
	keep := (s.newest-s.window)/bucketMillis - 1
	for len(s.buckets) > 0 && s.buckets[0].number < keep {
		s.expired, s.buckets = append(s.expired, s.buckets[0].number), s.buckets[1:]
	}
	if len(s.expired) == 0 {
		return nil
	}
	var old [][]byte
	err := rows.Scan(storeSeen, pagesOf(nil, s.expired[0]), func(key, _ []byte) bool {
		old = append(old, bytes.Clone(key))
		return len(old) < pruneKeys
	})
	for _, key := range old {
		rows.Delete(storeSeen, key)
	}
	if len(old) < pruneKeys {
		s.expired = s.expired[1:]
	}
	return err
}

// tailIDs is the number of ids of a tail row, for inspection.
func tailIDs(row []byte) (int, error) {
	if len(row)%tailEntry != 0 {
		return 0, errors.New("reading the ids seen: a tail row is cut off")
	}
	return len(row) / tailEntry, nil
}
