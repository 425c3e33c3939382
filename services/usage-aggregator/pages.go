package usageaggregator

import (
	"cmp"
	"encoding/binary"
	"errors"
	"math/bits"
	"slices"
)

// bucketMillis is the width of a bucket of append time: ids expire by the bucket. It is part of the stored keys and does not
// depend on the window, so that a changed window finds the ids that are there.
const bucketMillis = int64(12 * 60 * 60 * 1000)

const (
	partBits  = 6 // an id's first bits choose its part
	parts     = 1 << partBits
	pageIDs   = 128 // of a page at most, on average over a part
	entrySize = 16  // id in 12 bytes, milliseconds since the bucket's start in 4
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

// bucket holds the ids of one bucket of append time, in parts, each in pages: rows with the part's ids in order. A page is found
// by an id's first bits alone.
type bucket struct {
	number int64
	parts  [parts]*part // nil: not looked at yet
}

type part struct {
	pages  int // 0: no ids
	filter filter
}

// The keys of pages, bucket after bucket: 'p', the bucket in 4 bytes, the part in 1, the page in 2, big endian.
func pagesOf(dst []byte, bucket int64) []byte {
	return binary.BigEndian.AppendUint32(append(dst, 'p'), uint32(bucket))
}

func partKey(dst []byte, bucket int64, part int) []byte {
	return append(pagesOf(dst, bucket), byte(part))
}

func pageKey(dst []byte, bucket int64, part, page int) []byte {
	return binary.BigEndian.AppendUint16(partKey(dst, bucket, part), uint16(page))
}

func appendEntry(dst []byte, i id, since uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(dst, i.hi), i.lo), since)
}

func entry(row []byte, n int) (i id, since uint32) {
	row = row[n*entrySize:]
	return id{binary.BigEndian.Uint64(row), binary.BigEndian.Uint32(row[8:])}, binary.BigEndian.Uint32(row[12:])
}

var errPage = errors.New("reading the ids seen: a page has no whole number of entries")

// all reads the ids of a part in order, and the number of its pages.
func (b *bucket) all(rows rows, part int) (ids []seenID, pages int, err error) {
	scan := rows.Scan(storeSeen, partKey(nil, b.number, part), func(_, row []byte) bool {
		pages++
		if len(row)%entrySize != 0 {
			err = errPage
			return false
		}
		for n := range len(row) / entrySize {
			i, since := entry(row, n)
			ids = append(ids, seenID{i, b.number*bucketMillis + int64(since)})
		}
		return true
	})
	return ids, pages, errors.Join(err, scan)
}

// part returns a part, read from its pages the first time.
func (b *bucket) part(rows rows, n int) (*part, error) {
	if b.parts[n] == nil {
		ids, pages, err := b.all(rows, n)
		if err != nil {
			return nil, err
		}
		b.parts[n] = &part{pages, newFilter(ids)}
	}
	return b.parts[n], nil
}

// find returns when an id's newest event of the bucket was appended.
func (b *bucket) find(rows rows, i id) (at int64, ok bool, err error) {
	p, err := b.part(rows, i.part())
	if err != nil || !p.filter.has(i) {
		return 0, false, err
	}
	row, err := rows.Get(storeSeen, pageKey(nil, b.number, i.part(), i.page(p.pages)))
	if err != nil {
		return 0, false, err
	}
	if len(row)%entrySize != 0 {
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

// add writes further ids into a part: all its pages, since ids are spread over them evenly.
func (b *bucket) add(rows rows, n int, more []seenID) error {
	old, pages, err := b.all(rows, n)
	if err != nil {
		return err
	}
	slices.SortFunc(more, func(a, b seenID) int { return compareIDs(a.id, b.id) })
	ids := merge(old, more)
	for pages = max(pages, 1); len(ids) > pages*pageIDs && pages < 1<<16; pages *= 2 {
	}
	chunk := make([]byte, 0, len(ids)*entrySize)
	at := 0
	for page := range pages {
		start := len(chunk)
		for ; at < len(ids) && ids[at].id.page(pages) == page; at++ {
			chunk = appendEntry(chunk, ids[at].id, uint32(ids[at].at-b.number*bucketMillis))
		}
		rows.Put(storeSeen, pageKey(nil, b.number, n, page), chunk[start:len(chunk):len(chunk)])
	}
	b.parts[n] = &part{pages, newFilter(ids)}
	return nil
}
