package usageaggregator

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"
)

// bucketMillis is the width of a bucket of append time: ids expire by the bucket. It is part of the stored keys and does not
// depend on the window, so that a changed window finds the ids that are there.
const bucketMillis = int64(12 * 60 * 60 * 1000)

const (
	partBits  = 6 // an id's first bits choose its part
	parts     = 1 << partBits
	pageIDs   = 128 // of a page at most, on average over a run
	entrySize = 16  // id in 12 bytes, milliseconds since the bucket's start in 4

	fanIn    = 8 // runs of a level that become one of the next
	topLevel = 3 // its runs are not merged any more: about 100,000 ids each, or some times as many
)

// id is 96 bits of the SipHash of an account and an event id under a secret of the partition: among 10^8 ids the chance that
// any two have the same is about 10^-13.
type id struct {
	hi uint64
	lo uint32
}

func (i id) part() int { return int(i.hi >> (64 - partBits)) }

// page of a part that has n pages, a power of 2.
func (i id) page(n int) int {
	hi, _ := bits.Mul64(i.hi<<partBits, uint64(n))
	return int(hi)
}

func compareIDs(a, b id) int {
	if c := cmp.Compare(a.hi, b.hi); c != 0 {
		return c
	}
	return cmp.Compare(a.lo, b.lo)
}

// seenID is an id and when its newest event was appended, in milliseconds since 1970.
type seenID struct {
	id id
	at int64
}

// bucket holds the ids of one bucket of append time, in parts.
type bucket struct {
	number int64
	parts  [parts]*part // nil: not looked at yet
}

// part is a log-structured merge tree: what is moved to it together is a run, and fanIn runs of a level become one of the next.
// So an id is written about as often as there are levels, however many there are in the bucket.
type part struct {
	runs []*run // the newest first: lower levels come before higher ones
}

// run holds ids in order, in pages, which an id's first bits alone name. It is never changed.
type run struct {
	level  uint8
	number uint16 // in its level
	pages  int    // a power of 2
	filter filter
}

// of is the number of runs of a level.
func (p *part) of(level uint8) (n int) {
	for _, r := range p.runs {
		if r.level == level {
			n++
		}
	}
	return n
}

// room is how many runs of a level part n may have. The first time that depends on the part: of parts that are added to together, few
// are merged together, then and later.
func (p *part) room(level uint8, n int) int {
	for _, r := range p.runs {
		if r.level > level {
			return fanIn - 1
		}
	}
	if level%2 == 0 {
		return n % fanIn
	}
	return n / fanIn % fanIn
}

// next is the level of a further run of so many ids: that of their number, where gather of them make one of level 0, or the next one
// with room.
func (p *part) next(n, ids, gather int) (level uint8) {
	for size := 2 * gather; level < topLevel && ids >= size; size *= fanIn {
		level++
	}
	for level < topLevel && p.of(level) >= p.room(level, n) {
		level++
	}
	return level
}

// Keys: 'p', the bucket in 4 bytes, the part in 1, the level in 1, the run's number in 2, the page from 1 on in 2, big endian. In
// place of page 0 is the number of pages and the run's filter.
func pagesOf(dst []byte, bucket int64) []byte {
	return binary.BigEndian.AppendUint32(append(dst, 'p'), uint32(bucket))
}

func partKey(dst []byte, bucket int64, part int) []byte {
	return append(pagesOf(dst, bucket), byte(part))
}

func (r *run) key(dst []byte, bucket int64, part int) []byte {
	return binary.BigEndian.AppendUint16(append(partKey(dst, bucket, part), r.level), r.number)
}

func (r *run) pageKey(dst []byte, bucket int64, part, page int) []byte {
	return binary.BigEndian.AppendUint16(r.key(dst, bucket, part), uint16(page))
}

const (
	pageKeySize = 11
	maxPages    = 1 << 15
)

func appendEntry(dst []byte, i id, since uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(dst, i.hi), i.lo), since)
}

func entry(row []byte, n int) (i id, since uint32) {
	row = row[n*entrySize:]
	return id{binary.BigEndian.Uint64(row), binary.BigEndian.Uint32(row[8:])}, binary.BigEndian.Uint32(row[12:])
}

var errPage = errors.New("reading the ids seen: a page has no whole number of entries")

// part returns a part, whose runs are read the first time: their filters, not their pages.
func (b *bucket) part(rows rows, n int) (*part, error) {
	if b.parts[n] != nil {
		return b.parts[n], nil
	}
	p := &part{}
	prefix := partKey(nil, b.number, n)
	for next := prefix; next != nil; {
		from := next
		next = nil
		var damaged error
		err := rows.ScanFrom(storeSeen, prefix, from, func(key, row []byte) bool {
			r := &run{}
			if len(key) != pageKeySize || binary.BigEndian.Uint16(key[9:]) != 0 || len(row) < 4 || (len(row)-4)%(lineWords*8) != 0 {
				damaged = fmt.Errorf("reading the ids seen: a run of part %d does not begin with its filter", n)
				return false
			}
			r.level, r.number, r.pages = key[6], binary.BigEndian.Uint16(key[7:]), int(binary.BigEndian.Uint32(row))
			r.filter = readFilter(row[4:])
			p.runs = append(p.runs, r)
			next = r.pageKey(nil, b.number, n, r.pages+1)
			return false
		})
		if err = errors.Join(err, damaged); err != nil {
			return nil, err
		}
	}
	p.order()
	b.parts[n] = p
	return p, nil
}

func (p *part) order() {
	slices.SortFunc(p.runs, func(a, b *run) int {
		return cmp.Or(cmp.Compare(a.level, b.level), cmp.Compare(b.number, a.number))
	})
}

// read returns the ids of a run, in order.
func (r *run) read(rows rows, bucket int64, part int) (ids []seenID, err error) {
	page := -1 // the filter comes first
	scan := rows.Scan(storeSeen, r.key(nil, bucket, part), func(_, row []byte) bool {
		if page++; page == 0 {
			return true
		}
		if len(row)%entrySize != 0 {
			err = errPage
			return false
		}
		for n := range len(row) / entrySize {
			i, since := entry(row, n)
			ids = append(ids, seenID{i, bucket*bucketMillis + int64(since)})
		}
		return true
	})
	if err == nil && page != r.pages {
		err = fmt.Errorf("reading the ids seen: a run has %d pages instead of %d", page, r.pages)
	}
	return ids, errors.Join(err, scan)
}

// find returns when an id's newest event of the bucket was appended.
func (b *bucket) find(rows rows, i id) (at int64, ok bool, err error) {
	n := i.part()
	p, err := b.part(rows, n)
	if err != nil {
		return 0, false, err
	}
	for _, r := range p.runs { // the first that has it has its newest event
		if !r.filter.has(i) {
			continue
		}
		row, err := rows.Get(storeSeen, r.pageKey(nil, b.number, n, 1+i.page(r.pages)))
		if err != nil {
			return 0, false, err
		}
		if row == nil || len(row)%entrySize != 0 {
			return 0, false, errPage
		}
		low, high := 0, len(row)/entrySize
		for low < high {
			mid := (low + high) / 2
			e, since := entry(row, mid)
			switch c := compareIDs(e, i); {
			case c == 0:
				return b.number*bucketMillis + int64(since), true, nil
			case c < 0:
				low = mid + 1
			default:
				high = mid
			}
		}
	}
	return 0, false, nil
}

// merge joins two lists in order of ids. Of an id that is in both, the newer event counts.
func merge(a, b []seenID) []seenID {
	ids := make([]seenID, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		switch c := compareIDs(a[0].id, b[0].id); {
		case c < 0:
			ids, a = append(ids, a[0]), a[1:]
		case c > 0:
			ids, b = append(ids, b[0]), b[1:]
		default:
			ids, a, b = append(ids, seenID{a[0].id, max(a[0].at, b[0].at)}), a[1:], b[1:]
		}
	}
	return append(append(ids, a...), b...)
}

// add writes further ids, none of them twice, as a run. Runs of lower levels are older and go into it, so that lower stays newer.
func (b *bucket) add(rows rows, n int, ids []seenID, gather int) error {
	p, err := b.part(rows, n)
	if err != nil {
		return err
	}
	r := &run{level: p.next(n, len(ids), gather)}
	// Below r.level everything is merged. A full level that was passed is among it.
	slices.SortFunc(ids, func(a, b seenID) int { return compareIDs(a.id, b.id) })
	kept := p.runs[:0:0]
	for _, old := range p.runs {
		if old.level >= r.level {
			kept = append(kept, old)
			continue
		}
		more, err := old.read(rows, b.number, n)
		if err != nil {
			return err
		}
		ids = merge(ids, more)
		for page := range old.pages + 1 {
			rows.Delete(storeSeen, old.pageKey(nil, b.number, n, page))
		}
	}
	for _, other := range kept {
		if other.level == r.level {
			r.number = max(r.number, other.number+1)
		}
	}
	for r.pages = 1; len(ids) > r.pages*pageIDs && r.pages < maxPages; r.pages *= 2 {
	}
	r.filter = newFilter(ids)
	rows.Put(storeSeen, r.pageKey(nil, b.number, n, 0), r.filter.append(binary.BigEndian.AppendUint32(nil, uint32(r.pages))))
	chunk := make([]byte, 0, len(ids)*entrySize)
	at := 0
	for page := range r.pages {
		start := len(chunk)
		for ; at < len(ids) && ids[at].id.page(r.pages) == page; at++ {
			chunk = appendEntry(chunk, ids[at].id, uint32(ids[at].at-b.number*bucketMillis))
		}
		rows.Put(storeSeen, r.pageKey(nil, b.number, n, page+1), chunk[start:len(chunk):len(chunk)])
	}
	p.runs = append(kept, r)
	p.order()
	return nil
}
