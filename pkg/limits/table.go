package limits

import (
	"hash/maphash"
	"math/bits"
	"sync/atomic"
)

// A table is what decisions are made from. With many accounts a decision costs what it waits for memory, so an account is
// one cache line: a word for each limit, which holds the units remaining and the number of the limit's terms, of which
// there are few and hot ones.
//
// Any number of goroutines read without a lock; one at a time writes. A line says by its version whether it was written
// meanwhile (a seqlock), and the reader then turns to the view's map instead, as for the few accounts that have more
// than fits a line. The table has a fixed size: when it is full the view makes another from the map.
type table struct {
	lines   []line // a power of two, linear probing
	used    int
	terms   []*terms         // by number; 0 is none
	numbers map[terms]uint64 // of terms; the writer's
}

// A line is one account's. Once it is taken it stays that account's, whether it has limits or not.
type line struct {
	hash    atomic.Uint64 // 0 is free
	check   atomic.Uint32
	version atomic.Uint32 // odd: ask the map
	words   [6]atomic.Uint64
}

// remainingBits of a word are the units remaining, in two's complement; those above are the number of the terms.
const (
	remainingBits = 40
	maxTerms      = 1 << (64 - remainingBits)
)

// An id is what a line knows an account by: 94 bits of hashes under seeds of the process. That two of a million accounts
// have the same is one chance in 10^16.
type id struct {
	hash  uint64
	check uint32
}

// seeds of ids.
type seeds [2]maphash.Seed

func (s seeds) id(account string) id {
	return id{hash: maphash.String(s[0], account) | 1<<63, check: uint32(maphash.String(s[1], account)) | 1}
}

// newTable makes a table of all accounts, with room for as many again.
func newTable(s seeds, accounts map[string][]limit) *table {
	distinct := map[terms]uint64{}
	for _, limits := range accounts {
		for i := range limits {
			distinct[*limits[i].terms] = 0
		}
	}
	t := &table{
		lines:   make([]line, 1<<bits.Len(uint(max(2*len(accounts), 1024)-1))),
		terms:   make([]*terms, min(2*len(distinct)+1024, maxTerms)),
		numbers: make(map[terms]uint64, len(distinct)),
	}
	for account, limits := range accounts {
		t.write(s.id(account), limits)
	}
	return t
}

// find returns the account's line, or the free one that it would take.
func (t *table) find(a id) *line {
	for i := a.hash; ; i++ {
		l := &t.lines[i&uint64(len(t.lines)-1)]
		if h := l.hash.Load(); h == 0 || h == a.hash && l.check.Load() == a.check {
			return l
		}
	}
}

// choose returns false if the line cannot say.
func (t *table) choose(a id, pack string, now int64) (c choice, ok bool) {
	l := t.find(a)
	version := l.version.Load()
	if l.check.Load() != a.check {
		return c, true
	}
	for i := range l.words {
		w := l.words[i].Load()
		if w == 0 {
			break
		}
		c = c.or(t.terms[w>>remainingBits], int64(w)<<(64-remainingBits)>>(64-remainingBits), pack, now)
	}
	return c, version%2 == 0 && l.version.Load() == version
}

// write puts the limits of an account into its line. Equal terms become one, also in limits.
func (t *table) write(a id, limits []limit) {
	l := t.find(a)
	if l.hash.Load() == 0 {
		if len(limits) == 0 {
			return
		}
		t.used++
	}
	l.version.Store(l.version.Load() | 1)
	l.check.Store(a.check)
	l.hash.Store(a.hash)
	fits := len(limits) <= len(l.words)
	for i := range l.words {
		var w uint64
		if i < len(limits) {
			w = t.word(&limits[i])
			fits = fits && w != 0
		}
		l.words[i].Store(w)
	}
	if fits {
		l.version.Add(1)
	}
}

// word returns 0 for a limit that none can hold.
func (t *table) word(l *limit) uint64 {
	n, ok := t.numbers[*l.terms]
	if !ok {
		if n = uint64(len(t.numbers) + 1); n >= uint64(len(t.terms)) {
			return 0
		}
		t.numbers[*l.terms], t.terms[n] = n, l.terms
	}
	l.terms = t.terms[n]
	const above = 64 - remainingBits
	if l.remaining<<above>>above != l.remaining {
		return 0
	}
	return n<<remainingBits | uint64(l.remaining)<<above>>above
}

// full says that another table is due: before the next write, so that each finds room for a line and for terms.
func (t *table) full() bool {
	return t.used > len(t.lines)/4*3 || len(t.numbers)+1 == len(t.terms) && len(t.terms) < maxTerms
}
