package limits

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"databus/schemas/codec"
)

func unfollowed(t testing.TB) *View {
	t.Helper()
	v, err := newView(Options{Codec: codec.New(nil, codec.Options{})})
	if err != nil {
		t.Fatal(err)
	}
	v.caughtUp.Store(true)
	return v
}

// Lines say what the map says, or leave it to the map; and they leave only what does not fit.
func TestLinesAndMapAgree(t *testing.T) {
	v := unfollowed(t)
	rng := rand.New(rand.NewPCG(1, 2))
	packs, now := []string{"person", "company", "*"}, v.micros()
	const accounts = 3000
	check := func() {
		t.Helper()
		byMap := 0
		for i := range accounts {
			account := fmt.Sprint("acct-", i)
			limits := v.accounts[account]
			fits := len(limits) <= 6
			for _, l := range limits {
				fits = fits && l.remaining >= -1<<39 && l.remaining < 1<<39
			}
			for _, pack := range packs[:2] {
				var want choice
				for _, l := range limits {
					want = want.or(l.terms, l.remaining, pack, now)
				}
				got, ok := v.table.Load().choose(v.seeds.id(account), pack, now)
				if ok != fits {
					t.Fatalf("%s has %d limits: its line answers: %v", account, len(limits), ok)
				}
				if ok && got.decision() != want.decision() {
					t.Fatalf("%s %s: %+v, the map says %+v", account, pack, got.decision(), want.decision())
				}
				if got := v.Allow(account, pack); got.Allowed != want.decision().Allowed || got.Remaining != want.decision().Remaining {
					t.Fatalf("%s %s: %+v, the map says %+v", account, pack, got, want.decision())
				}
				if !ok {
					byMap++
				}
			}
		}
		if byMap == 0 {
			t.Error("everything fits: what does not is not tested")
		}
	}
	for step := range 60_000 {
		account := fmt.Sprint("acct-", rng.IntN(accounts))
		if rng.IntN(10) == 0 {
			account = "acct-7" // has everything, in turns
		}
		pack, period := packs[rng.IntN(3)], fmt.Sprint("month:", rng.IntN(3))
		l := &limit{remaining: rng.Int64N(1000) - 100, terms: &terms{pack: pack, period: period, until: never, end: never, limit: rng.Int64N(3), exceeded: rng.IntN(4) == 0}}
		switch rng.IntN(20) {
		case 0:
			l.remaining = 1 << 39
		case 1:
			l.remaining = -1<<39 - 1
		case 2:
			l.remaining = -1 << 39
		case 3:
			l.limit = int64(step) // terms of its own: the table is made anew for want of numbers
		case 4:
			l.start = never // later
		case 5, 6, 7, 8, 9:
			l = nil
		}
		v.put(account, account+"/"+pack+"/"+period, l)
		if step%20_000 == 19_999 {
			check()
		}
	}
}

// A decision beside a writer is of one state of the account: no limit is missed because another one moves in the line, and
// none has the units of another.
func TestDecisionsBesideAWriter(t *testing.T) {
	v := unfollowed(t)
	put := func(account, pack string, limitOf, remaining int64) {
		v.put(account, account+"/"+pack+"/total", &limit{remaining: remaining, terms: &terms{pack: pack, period: "total", until: never, end: never, limit: limitOf}})
	}
	put("a", "person", 1_000_000, 900_000)
	put("a", "*", 1, 10)
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				if d := v.Allow("a", "person"); d.Pack != "*" || d.Remaining != 10*d.Limit {
					t.Errorf("%+v", d)
					return
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	for i := range int64(5_000) {
		put("a", "person", 1_000_000, 900_000)
		put("a", "*", 1+i%500, 10*(1+i%500))
		if i%10 == 0 {
			put(fmt.Sprint("other-", i), "*", i%700, 1) // the table grows meanwhile
		}
	}
	close(done)
	readers.Wait()
}

// A line that is written while it is read is noticed at the end of the reading: packs of long names make that last, so that
// limits move within the line meanwhile.
func TestLinesWrittenMeanwhile(t *testing.T) {
	v := unfollowed(t)
	pack := strings.Repeat("p", 64<<10)
	put := func(pack, period string, remaining int64) {
		v.put("a", "a/"+pack+"/"+period, &limit{remaining: remaining, terms: &terms{pack: pack, period: period, until: never, end: never, limit: 100}})
	}
	own := strings.Clone(pack) // the same bytes elsewhere: they are compared
	for i := range 5 {
		put(own, fmt.Sprint(i), 50)
	}
	put("*", "total", 1) // the one that decides
	done := make(chan struct{})
	var readers sync.WaitGroup
	readers.Go(func() {
		for {
			if d := v.Allow("a", pack); d.Pack != "*" || d.Remaining != 1 {
				t.Errorf("pack of %d bytes, remaining %d: the limit that decides was missed", len(d.Pack), d.Remaining)
				return
			}
			select {
			case <-done:
				return
			default:
			}
		}
	})
	for i := range 3000 {
		put(own, fmt.Sprint(i%5), 50)
		put("*", "total", 1)
	}
	close(done)
	readers.Wait()
}
