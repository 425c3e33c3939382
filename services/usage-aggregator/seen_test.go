package usageaggregator

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// memory holds rows as a transaction shows them.
type memory map[string][]byte

func (m memory) Get(_ string, key []byte) ([]byte, error) { return m[string(key)], nil }
func (m memory) Put(_ string, key, value []byte)          { m[string(key)] = value }
func (m memory) Delete(_ string, key []byte)              { delete(m, string(key)) }

func (m memory) Scan(_ string, prefix []byte, each func(key, value []byte) bool) error {
	return m.ScanFrom("", prefix, prefix, each)
}

func (m memory) ScanFrom(_ string, prefix, from []byte, each func(key, value []byte) bool) error {
	var keys []string
	for k := range m {
		if k >= string(from) && strings.HasPrefix(k, string(prefix)) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	for _, k := range keys {
		if !each([]byte(k), m[k]) {
			break
		}
	}
	return nil
}

// Ids over many windows of append time, with repeats at every distance, restarts, and transactions that are given up, against a
// map that remembers everything. Tails and pages are pushed out all the time.
func TestSeenAgainstAMap(t *testing.T) {
	for seed := range uint64(6) {
		rng := rand.New(rand.NewPCG(seed, 3))
		window := []int64{3_600_000, 24 * 3_600_000, 50 * 3_600_000}[seed%3]
		step := window / 3000
		disk := memory{}
		s := newSeen(window)
		s.gather = 4 + int(seed)*3
		last := map[string]int64{}
		at, repeats := int64(1_700_000_000_000), 0
		for tx := range 400 {
			open, was, keptAt := maps.Clone(disk), maps.Clone(last), at
			for range rng.IntN(120) {
				at += rng.Int64N(2 * step)
				now := at
				if rng.IntN(10) == 0 {
					now -= rng.Int64N(1000) // a little back, as behind a change of leaders
				}
				id := fmt.Sprint(rng.IntN(9000))
				got, err := s.check(open, "acme", id, now)
				if err != nil {
					t.Fatal(err)
				}
				seen, ok := last[id]
				want := ok && now-seen < window
				if got != want {
					t.Fatalf("seed %d, transaction %d: id %s at %d: repeated %v, want %v (before: %d %v)", seed, tx, id, now, got, want, seen, ok)
				}
				if want {
					repeats++
				}
				last[id] = max(last[id], now)
			}
			if err := s.finish(open); err != nil {
				t.Fatal(err)
			}
			switch rng.IntN(20) {
			case 0: // given up
				last, at = was, keptAt
				s = newSeen(window)
			case 1: // restarted
				disk = open
				s = newSeen(window)
			default:
				disk = open
			}
			s.gather = 4 + int(seed)*3
		}
		if repeats < 1000 {
			t.Errorf("seed %d: only %d repeats", seed, repeats)
		}
		oldest := int64(1 << 62)
		for key := range disk {
			if key[0] == 'p' {
				oldest = min(oldest, int64(bytesToBucket(key)))
			}
		}
		if keep := (at-window)/bucketMillis - 2; oldest < keep {
			t.Errorf("seed %d: pages of bucket %d are left, %d is the oldest that may be", seed, oldest, keep)
		}
	}
}

// A partition with little to do keeps no more tails than one that has much: its ids expire.
func TestTailsOfASlowPartition(t *testing.T) {
	const hour = int64(3_600_000)
	disk := memory{}
	s := newSeen(24 * hour)
	tails := 0
	for i := range int64(120 * 24) { // a transaction an hour
		at := i * hour
		if i > 60*24 {
			at += 60 * 24 * hour // nothing for longer than a table reaches
		}
		for n := range int64(40) {
			if repeated, err := s.check(disk, "acme", fmt.Sprint(i, "/", n), at); err != nil || repeated {
				t.Fatal(i, repeated, err)
			}
		}
		if err := s.finish(disk); err != nil {
			t.Fatal(err)
		}
		n := 0
		for key := range disk {
			if key[0] == 't' {
				n += len(disk[key]) / tailEntry
			}
		}
		tails = max(tails, n)
	}
	// What is collected within the window and a bucket, and the rest of the tail rows that it is in.
	if most := 40*(24+12) + 2*tailBytes/tailEntry; tails > most {
		t.Errorf("%d ids are in tails, want %d at most", tails, most)
	}
}

// reading are rows while an event may yet be refused.
type reading struct {
	memory
	t *testing.T
}

func (r reading) Put(_ string, key, _ []byte) { r.t.Fatalf("row %q was written", key) }
func (r reading) Delete(_ string, key []byte) { r.t.Fatalf("row %q was deleted", key) }

// However many ids a transaction has, rows are written at its end.
func TestManyIDsOfATransaction(t *testing.T) {
	disk := memory{}
	s := newSeen(3_600_000)
	s.gather = 1 << 20 // all of them stay in tails
	const ids = 3*tailBytes/tailEntry + 7
	for i := range ids {
		if repeated, err := s.check(reading{disk, t}, "acme", fmt.Sprint(i), int64(i)); err != nil || repeated {
			t.Fatal(i, repeated, err)
		}
	}
	if err := s.finish(disk); err != nil {
		t.Fatal(err)
	}
	again := newSeen(3_600_000)
	for i := range ids {
		if repeated, err := again.check(disk, "acme", fmt.Sprint(i), ids); err != nil || !repeated {
			t.Fatal(i, repeated, err)
		}
	}
	for key, row := range disk {
		if len(row) > tailBytes+tailEntry {
			t.Errorf("row %q has %d bytes", key, len(row))
		}
	}
}

// A transaction with many ids writes them once, in pages, together with those of the tail rows before it.
func TestManyIDsNeedNoTails(t *testing.T) {
	disk := memory{}
	s := newSeen(3_600_000)
	n := 0
	for _, more := range []int{100, s.many() - 1, s.many() + 1000} {
		for range more {
			if repeated, err := s.check(disk, "acme", fmt.Sprint(n), 1000); err != nil || repeated {
				t.Fatal(n, repeated, err)
			}
			n++
		}
		if err := s.finish(disk); err != nil {
			t.Fatal(err)
		}
		tails := 0
		for key := range disk {
			if key[0] == 't' {
				tails++
			}
		}
		if want := more < s.many(); tails > 0 != want {
			t.Errorf("a transaction of %d ids left %d tail rows", more, tails)
		}
		for _, s := range []seen{s, newSeen(3_600_000)} {
			for i := range n {
				if repeated, err := s.check(disk, "acme", fmt.Sprint(i), 1000); err != nil || !repeated {
					t.Fatalf("behind %d ids, id %d: repeated %v, error %v", n, i, repeated, err)
				}
			}
		}
	}
}

func bytesToBucket(key string) uint32 {
	return uint32(key[1])<<24 | uint32(key[2])<<16 | uint32(key[3])<<8 | uint32(key[4])
}

// No id that was added is denied, and few others are affirmed.
func TestFilter(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	var ids []seenID
	for range 20_000 {
		ids = append(ids, seenID{id: id{rng.Uint64(), rng.Uint32()}})
	}
	f := newFilter(ids)
	for _, i := range ids {
		if !f.has(i.id) {
			t.Fatal("an id that was added is denied")
		}
	}
	wrong := 0
	for range 100_000 {
		if f.has(id{rng.Uint64(), rng.Uint32()}) {
			wrong++
		}
	}
	if wrong > 500 {
		t.Errorf("%d of 100,000 others are affirmed", wrong)
	}
}

// A part finds every id with its newest event, however many runs have been merged, and runs of equal size stay few.
func TestPages(t *testing.T) {
	const gather, rounds = 20, 1200
	disk := memory{}
	b := &bucket{number: 39_000}
	start := b.number * bucketMillis
	want := map[id]int64{}
	rng := rand.New(rand.NewPCG(2, 2))
	written := 0
	for round := range rounds {
		now := map[id]int64{}
		for range gather {
			i := id{7<<58 | uint64(rng.IntN(20_000))<<40, 1}
			now[i] = max(want[i], start+int64(round)*1000+rng.Int64N(1000))
			want[i] = now[i]
		}
		var more []seenID
		for i, at := range now {
			more = append(more, seenID{i, at})
		}
		before := maps.Clone(disk)
		if err := b.add(disk, 7, more, gather); err != nil {
			t.Fatal(err)
		}
		for key, row := range disk {
			if _, had := before[key]; !had && key[9:] != "\x00\x00" {
				written += len(row) / entrySize
			}
		}
		if n := len(b.parts[7].runs) - b.parts[7].of(topLevel); n > (fanIn-1)*topLevel {
			t.Fatalf("round %d: %d runs below the top", round, n)
		}
	}
	if n := b.parts[7].of(topLevel); n < 2 || n > 3 {
		t.Errorf("%d runs are at the top", n)
	}
	// An id is written once on each level at most.
	if written > rounds*gather*(topLevel+1) {
		t.Errorf("%d entries were written for %d ids", written, rounds*gather)
	}
	again := &bucket{number: b.number} // as a restart reads it
	for i, at := range want {
		for name, b := range map[string]*bucket{"the writer": b, "a restart": again} {
			if got, ok, err := b.find(disk, i); err != nil || !ok || got != at {
				t.Fatalf("%s: %v is at %d, %v, %v; want %d", name, i, got, ok, err, at)
			}
		}
	}
	if a, b := fmt.Sprint(runsOf(b.parts[7])), fmt.Sprint(runsOf(again.parts[7])); a != b {
		t.Errorf("a restart finds the runs %s instead of %s", b, a)
	}
	var some id
	for some = range want {
		break
	}
	for _, r := range again.parts[7].runs {
		disk.Put("", r.pageKey(nil, b.number, 7, 1+some.page(r.pages)), bytes.Repeat([]byte{1}, 17))
	}
	if _, _, err := again.find(disk, some); err == nil {
		t.Error("a page that is cut off was read")
	}
	disk.Put("", again.parts[7].runs[0].pageKey(nil, b.number, 7, 0), []byte{1})
	if _, _, err := (&bucket{number: b.number}).find(disk, some); err == nil {
		t.Error("a filter that is cut off was read")
	}
}

// Parts that are added to together, as in transactions with many ids, are not merged together: no transaction writes many times
// what it has.
func TestMergesAreSpread(t *testing.T) {
	const gather, ids, rounds = 1024, 640, 2500
	type merged struct {
		part
		ids map[*run]int
	}
	all := make([]merged, parts)
	for n := range all {
		all[n].ids = map[*run]int{}
	}
	most, total := 0, 0
	for range rounds {
		written := 0
		for n := range all {
			p := &all[n]
			r, sum, kept := &run{level: p.next(n, ids, gather)}, ids, p.runs[:0:0]
			for _, old := range p.runs {
				if old.level >= r.level {
					kept = append(kept, old)
				} else {
					sum += p.ids[old]
				}
			}
			p.runs, p.ids[r] = append(kept, r), sum
			p.order()
			written += sum
		}
		most, total = max(most, written), total+written
	}
	if most > 16*ids*parts {
		t.Errorf("a transaction of %d ids writes %d", ids*parts, most)
	}
	if total > (topLevel+1)*rounds*ids*parts {
		t.Errorf("%d ids were written for %d", total, rounds*ids*parts)
	}
	t.Logf("%.1f times as many at most, %.1f on average", float64(most)/(ids*parts), float64(total)/(rounds*ids*parts))
}

// Runs of a level that there is none of any more are read as the oldest, and stay.
func TestRunsOfAHigherLevel(t *testing.T) {
	const gather = 20
	disk := memory{}
	old := &bucket{number: 39_000}
	start := old.number * bucketMillis
	some := func(from, n int, at int64) (ids []seenID) {
		for i := range n {
			ids = append(ids, seenID{id{7<<58 | uint64(from+i)<<40, 1}, start + at})
		}
		return ids
	}
	if err := old.add(disk, 7, some(0, 3*gather, 1), gather); err != nil {
		t.Fatal(err)
	}
	for key, row := range maps.Clone(disk) { // as an earlier version has left it
		at := []byte(key)
		at[6] = topLevel + 1
		delete(disk, key)
		disk[string(at)] = row
	}
	b := &bucket{number: old.number}
	for i := range 600 {
		if err := b.add(disk, 7, some(2*gather+i, gather, int64(2+i)), gather); err != nil {
			t.Fatal(err)
		}
	}
	for n, want := range map[int]int64{0: 1, 2*gather - 1: 1, 2 * gather: 2, 3 * gather: 2 + gather, 2*gather + 599: 601} {
		if at, ok, err := b.find(disk, some(n, 1, 0)[0].id); err != nil || !ok || at != start+want {
			t.Errorf("id %d occurred at %d, %v, %v; want %d", n, at-start, ok, err, want)
		}
	}
	if n := b.parts[7].of(topLevel + 1); n != 1 {
		t.Errorf("%d runs of the higher level are left", n)
	}
}

func runsOf(p *part) (all []string) {
	for _, r := range p.runs {
		all = append(all, fmt.Sprint(r.level, r.number, r.pages, len(r.filter)))
	}
	return all
}
