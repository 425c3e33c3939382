package usageaggregator

import (
	"testing"
	"unsafe"

	"databus/pkg/usage"
	"databus/schemas/event"
)

// A sum never overflows: what would make one too large does not fit, whichever sum it is.
func TestSumsDoNotOverflow(t *testing.T) {
	north := "north"
	for name, e := range map[string]event.UsageEvent{
		"matched":            {Status: 200, Quantity: usage.MaxQuantity},
		"unmatched":          {Status: 404, Quantity: usage.MaxQuantity},
		"corrections":        {Status: 200, Quantity: -usage.MaxQuantity},
		"amount":             {Status: 200, Quantity: 1, AmountMicros: usage.MaxAmount},
		"amount paid back":   {Status: 404, Quantity: 1, AmountMicros: -usage.MaxAmount},
		"amount of provider": {Status: 200, Quantity: 1, AmountMicros: usage.MaxAmount, Provider: &north},
	} {
		c := new(count)
		added := 0
		for ; c.fits(&e); added++ {
			if c.add(&e, 1); added > 5_000_000 {
				t.Fatalf("%s: everything fits", name)
			}
			if e.Provider != nil { // the count itself has others, that take back as much
				c.amount = 0
			}
		}
		for what, sum := range map[string]int64{"matched": c.matched, "unmatched": c.unmatched, "amount": c.amount} {
			if !usage.SumFits(sum) {
				t.Errorf("%s: %s is %d", name, what, sum)
			}
		}
		if added < 2000 {
			t.Errorf("%s: only %d events fit", name, added)
		}
		// What makes it smaller fits again.
		e.Quantity, e.AmountMicros = -e.Quantity, -e.AmountMicros
		if !c.fits(&e) {
			t.Errorf("%s: the opposite does not fit", name)
		}
	}
}

// Many counts are in memory, and each event changes several of them.
func TestCountTakesTwoCacheLines(t *testing.T) {
	var c count
	if size, warm := unsafe.Sizeof(c), unsafe.Offsetof(c.account); size != 128 || warm != 64 {
		t.Errorf("%d bytes, of which an event needs the first %d", size, warm)
	}
}
