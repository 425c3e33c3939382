package usageaggregator

import (
	"reflect"
	"testing"

	"databus/pkg/usage"
	"databus/schemas/event"
)

// A sum never overflows: what would make one too large does not fit, whichever sum it is, and although it is looked at now and
// then only.
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
		p := &partition{names: newNames(), number: 1}
		acct := &account{room: usage.SumRoom(0)}
		row := acct.keep(count{})
		var s slot
		if e.Provider != nil {
			s.provider = p.names.number(north)
		}
		slot := acct.keepSlot(s, []int32{row})
		c, more := &acct.rows[row], sumsOf(&e)
		added := 0
		for ; p.fits(acct, slot, &more); added++ {
			if p.add(acct, slot, &more, 1); added > 5_000_000 {
				t.Fatalf("%s: everything fits", name)
			}
			if e.Provider != nil { // the count itself has others, that take back as much
				c.amount -= more.amount
			}
		}
		p.settle()
		all := []sums{c.sums}
		for _, s := range acct.shares {
			all = append(all, s.sums)
		}
		for _, of := range all {
			for what, sum := range map[string]int64{"matched": of.matched, "unmatched": of.unmatched, "amount": of.amount} {
				if !usage.SumFits(sum) {
					t.Errorf("%s: %s is %d", name, what, sum)
				}
			}
		}
		if room := 1<<61 - all[len(all)-1].size(); room >= more.size() {
			t.Errorf("%s: %d events fit, and there is room for %d more", name, added, room)
		}
		p.number++ // another transaction
		// What makes it smaller fits again.
		less := sums{-more.matched, -more.unmatched, -more.amount}
		if !p.fits(acct, slot, &less) {
			t.Errorf("%s: the opposite does not fit", name)
		}
		p.add(acct, slot, &less, 1)
		if !p.fits(acct, slot, &more) {
			t.Errorf("%s: what was taken back does not fit again", name)
		}
	}
}

// Millions of them may be in memory, and the garbage collector follows pointers.
func TestCountsHoldNoPointers(t *testing.T) {
	var look func(of reflect.Type, path string)
	look = func(of reflect.Type, path string) {
		switch of.Kind() {
		case reflect.Struct:
			for i := range of.NumField() {
				look(of.Field(i).Type, path+"."+of.Field(i).Name)
			}
		case reflect.Pointer, reflect.String, reflect.Slice, reflect.Map, reflect.Interface, reflect.Func, reflect.Chan:
			t.Errorf("%s is a %v", path, of)
		}
	}
	for v, bytes := range map[any]uintptr{count{}: rowBytes, share{}: shareBytes, slot{}: slotBytes} {
		of := reflect.TypeOf(v)
		if look(of, of.Name()); of.Size() != bytes {
			t.Errorf("a %s takes %d bytes, and is taken for %d", of.Name(), of.Size(), bytes)
		}
	}
	if size := reflect.TypeOf(count{}).Size(); size > 80 {
		t.Errorf("a count takes %d bytes", size)
	}
}
