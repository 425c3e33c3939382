package usageaggregator

import (
	"maps"
	"math/rand/v2"
	"testing"
)

// Whatever is put in any order, also at moments that are far apart, is found like in a map.
func TestRecentAgainstAMap(t *testing.T) {
	const month = int64(30 * 24 * 60 * 60 * 1000)
	rng := rand.New(rand.NewPCG(3, 9))
	var r recent
	for round := range 20 {
		want := map[id]int64{}
		var all []id
		now := int64(round) * month // further than a table reaches: what is older is of no use
		for range 1 + rng.IntN(5000) {
			i := id{rng.Uint64() >> rng.IntN(40), rng.Uint32() % 8} // close ones too
			if len(all) > 0 && rng.IntN(3) == 0 {
				i = all[rng.IntN(len(all))]
			}
			if at, ok := r.find(i); ok != (want[i] != 0) || ok && at != want[i] {
				t.Fatalf("%v: %d, %v, want %d", i, at, ok, want[i])
			}
			at := now + 1 + rng.Int64N(month/5)
			r.put(i, at)
			all, want[i] = append(all, i), at
		}
		got := map[id]int64{}
		r.each(func(i id, at int64) { got[i] = at })
		if !maps.Equal(got, want) || r.n != len(want) {
			t.Fatalf("%d ids, counted as %d, want %d", len(got), r.n, len(want))
		}
		if round%2 == 0 {
			r.clear()
		} else { // the next round's first one makes it anew
			i := id{1, 1}
			if r.put(i, now+2*month); r.n != 1 {
				t.Fatalf("%d ids are left of a month ago", r.n)
			}
			r.clear()
		}
	}
}
