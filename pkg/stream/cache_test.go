package stream

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"databus/pkg/state"
)

// Random reads, writes, scans, undone records, commits and aborts against a plain map.
func TestCacheAgainstAMap(t *testing.T) {
	db, err := state.Open(state.Options{Dir: t.TempDir(), Service: "s", Instance: "0"})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	stores := []Store{{Name: "a"}, {Name: "b", Uncached: true}}
	c := newCache(stores, func() (*state.Reader, error) { return db.NewReader(3) })
	c.tables[0].bits = 7 // many keys have the same
	committed := []map[string]string{{}, {}}
	tx := []map[string]string{{}, {}}
	copyOf := func(m []map[string]string) []map[string]string {
		return []map[string]string{maps.Clone(m[0]), maps.Clone(m[1])}
	}
	rng := rand.New(rand.NewPCG(7, 7))
	for step := range 20_000 {
		before := copyOf(tx)
		c.begin()
		for range rng.IntN(4) {
			store, key := rng.IntN(2), fmt.Sprintf("%c/%d", 'x'+rune(rng.IntN(3)), rng.IntN(30))
			if rng.IntN(4) == 0 {
				c.put(store, []byte(key), nil)
				delete(tx[store], key)
			} else {
				v := strings.Repeat(fmt.Sprint(step), rng.IntN(4)) // shorter and longer ones, and empty ones
				c.put(store, []byte(key), []byte(v))
				tx[store][key] = v
			}
		}
		if rng.IntN(5) == 0 {
			c.rollback()
			tx = before
		}
		store, key := rng.IntN(2), fmt.Sprintf("%c/%d", 'x'+rune(rng.IntN(3)), rng.IntN(30))
		got, err := c.get(store, []byte(key))
		if err != nil {
			t.Fatal(err)
		}
		if want, ok := tx[store][key]; string(got) != want || (got != nil) != ok {
			t.Fatalf("step %d: %s %s = %q, want %q", step, stores[store].Name, key, got, want)
		}
		if step%7 == 0 {
			prefix := string('x' + rune(rng.IntN(3)))
			limit := 1 + rng.IntN(40)
			var rows, want []string
			if err := c.scan(store, prefix, prefix, func(k, v []byte) bool {
				rows = append(rows, string(k)+"="+string(v))
				return len(rows) < limit
			}); err != nil {
				t.Fatal(err)
			}
			for _, k := range slices.Sorted(maps.Keys(tx[store])) {
				if strings.HasPrefix(k, prefix) && len(want) < limit {
					want = append(want, k+"="+tx[store][k])
				}
			}
			if !slices.Equal(rows, want) {
				t.Fatalf("step %d: scan %v, want %v", step, rows, want)
			}
		}
		switch rng.IntN(20) {
		case 0: // commit
			c.committed()
			committed = copyOf(tx)
			if rng.IntN(3) > 0 {
				continue
			}
			b := db.NewBatch()
			if err := errors.Join(c.write(b, 3, false), b.Commit(), b.Close(), c.written(4000, false)); err != nil {
				t.Fatal(err)
			}
		case 1: // abort
			c.abort()
			tx = copyOf(committed)
		}
		size := 0
		for _, t := range c.tables {
			for _, place := range t.index {
				for ; place != 0; place = t.at(place).next {
					size += t.at(place).size()
				}
			}
		}
		if size != c.bytes {
			t.Fatalf("step %d: the rows have %d bytes, the cache counts %d", step, size, c.bytes)
		}
	}
	if err := c.release(); err != nil {
		t.Fatal(err)
	}
}
