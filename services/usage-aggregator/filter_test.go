package usageaggregator

import (
	"fmt"
	"testing"
)

// A filter never denies an id that was added, seldom claims another, and gives up at its bound.
func TestFilter(t *testing.T) {
	id := func(i int) []byte { return fmt.Appendf(nil, "00041234/acct-%d/%d", i%100, i) }
	for _, n := range []int{0, 1, filterIDs, 3*filterIDs + 1, filterParts*filterIDs + 1} {
		f := newFilter()
		for i := range n {
			f.add(id(i))
		}
		for i := range n {
			if !f.has(id(i)) {
				t.Fatalf("of %d ids, id %d is denied", n, i)
			}
		}
		if n > filterParts*filterIDs {
			if !f.full || f.parts != nil {
				t.Error("the filter is beyond its bound")
			}
			continue
		}
		wrong := 0
		for i := range 20_000 {
			if f.has(id(-1 - i)) {
				wrong++
			}
		}
		if most := 20_000 / 100 * (1 + n/filterIDs); n > 0 && wrong > most || n == 0 && wrong > 0 {
			t.Errorf("with %d ids, %d of 20,000 others are claimed", n, wrong)
		}
	}
}
