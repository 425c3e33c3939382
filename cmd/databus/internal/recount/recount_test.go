package recount

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"databus/pkg/usage"
	"databus/schemas/event"
)

var noon = time.Date(2026, 11, 15, 12, 0, 0, 0, time.UTC)

func terms(t *testing.T, version int64, zone string) *usage.Terms {
	t.Helper()
	all, err := usage.NewTerms(event.Contract{Account: "acme", Version: version, TimeZone: zone, StartsAt: noon.AddDate(-1, 0, 0)})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func usageEvent(id string, at time.Time, quantity int64) *event.UsageEvent {
	return &event.UsageEvent{EventID: id, Account: "acme", Pack: "person", OccurredAt: at, Quantity: quantity, Status: 200, AmountMicros: 10}
}

func TestWhatACountIsMadeOf(t *testing.T) {
	r := New(Options{Account: "acme", Pack: "*", Period: "month:2026-11", Window: time.Hour, KeepEnded: 100 * 24 * time.Hour, Home: 3})
	december := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	r.Event(3, 10, noon, usageEvent("a", noon, 1))
	r.Event(3, 11, noon, usageEvent("b", noon, 2))
	r.Event(3, 15, noon.Add(time.Minute), usageEvent("a", noon, 1))    // a repeat
	r.Event(3, 16, noon.Add(61*time.Minute), usageEvent("a", noon, 1)) // the window is over, to the millisecond
	r.Event(3, 17, noon.Add(62*time.Minute), usageEvent("a", noon, 1)) // and a new one has begun
	r.Event(3, 18, noon.Add(62*time.Minute), usageEvent("c", noon, -2))
	r.Event(3, 19, december, usageEvent("d", december, 1)) // another month
	r.Event(3, 20, december, usageEvent("e", noon, 5))     // late
	r.Event(3, 21, december, usageEvent("f", time.Unix(0, 0), 1))
	r.Event(3, 22, december, usageEvent("g", december.AddDate(0, 0, -101), 1))
	r.Refuse(3, 23, "undecodable")
	other := usageEvent("h", noon, 1)
	other.Account = "else"
	r.Event(3, 24, december, other)
	r.Event(2, 5, december, usageEvent("misplaced", noon, 1000)) // counted by nobody
	r.Finish()
	got := r.Appended
	if want := (Sum{Events: 5, Matched: 1 + 2 + 1 - 2 + 5, AmountMicros: 50}); got.Sum != want {
		t.Errorf("sum %+v, want %+v", got.Sum, want)
	}
	ranges := []Range{{3, 10, 11, Sum{2, 3, 0, 20}}, {3, 16, 16, Sum{1, 1, 0, 10}}, {3, 18, 18, Sum{1, -2, 0, 10}}, {3, 20, 20, Sum{1, 5, 0, 10}}}
	if !reflect.DeepEqual(got.Ranges.First, ranges) {
		t.Errorf("ranges %+v", got.Ranges.First)
	}
	if want := []Duplicate{{3, 15, 10}, {3, 17, 16}}; !reflect.DeepEqual(got.Duplicates.First, want) {
		t.Errorf("duplicates %+v", got.Duplicates.First)
	}
	if len(got.Late.First) != 1 || got.Late.First[0].Offset != 20 || len(got.Corrections.First) != 1 || got.Corrections.First[0].Offset != 18 {
		t.Errorf("late %+v, corrections %+v", got.Late.First, got.Corrections.First)
	}
	var dead []int64
	for _, d := range r.DeadLetters.First {
		dead = append(dead, d.Offset)
	}
	if !reflect.DeepEqual(dead, []int64{21, 22, 23, 24, 5}) || r.Events != 13 {
		t.Errorf("dead letters %v of %d events", dead, r.Events)
	}
	if !reflect.DeepEqual(got, r.Newest) {
		t.Error("without contracts both counts are the same")
	}
}

// A contract moves a month's bounds: what was counted before stays where it is, what comes after starts anew.
func TestContracts(t *testing.T) {
	// In Kiritimati it is December 14 hours before it is in UTC.
	edge := time.Date(2026, 11, 30, 20, 0, 0, 0, time.UTC)
	contracts := []Contract{{edge, terms(t, 1, "UTC")}, {edge.Add(time.Minute), terms(t, 2, "Pacific/Kiritimati")}, {edge.Add(2 * time.Minute), terms(t, 2, "UTC")}}
	count := func(period string) (appended, newest int64) {
		r := New(Options{Account: "acme", Pack: "person", Period: period, Window: time.Hour, Contracts: contracts})
		r.Event(0, 0, edge, usageEvent("a", edge, 1))
		r.Event(0, 1, edge.Add(time.Minute), usageEvent("b", edge, 10))
		r.Event(0, 2, edge.Add(3*time.Minute), usageEvent("c", edge, 100)) // version 2 again is no change
		r.Finish()
		if got := r.Versions(); !reflect.DeepEqual(got, []int64{1, 2}) {
			t.Errorf("versions %v", got)
		}
		return r.Appended.Sum.Matched, r.Newest.Sum.Matched
	}
	for period, want := range map[string][2]int64{
		"total": {111, 111}, "month:2026-11": {1, 0}, "month:2026-12@2": {110, 0}, "month:2026-12": {0, 111}, "month:2026-11@2": {0, 0},
	} {
		if a, n := count(period); a != want[0] || n != want[1] {
			t.Errorf("%s: %d and %d, want %v", period, a, n, want)
		}
	}
}

// Ids are forgotten with the window, so that memory is bounded, and only then. The model remembers everything.
func TestDuplicatesAgainstAModel(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	const window = time.Minute
	r := New(Options{Account: "acme", Pack: "*", Period: "total", Window: window})
	last := map[string]time.Time{}
	want, at, most := int64(0), noon, 0
	for i := range int64(20_000) {
		at = at.Add(time.Duration(random.IntN(100)) * time.Millisecond)
		id := fmt.Sprint(random.IntN(3000))
		if was, ok := last[id]; !ok || at.Sub(was) >= window {
			want++
		}
		last[id] = at
		r.Event(0, i, at, usageEvent(id, at, 1))
		most = max(most, len(r.seen))
	}
	if r.Appended.Sum.Matched != want || want > 19_000 || want < 1000 {
		t.Errorf("%d, want %d", r.Appended.Sum.Matched, want)
	}
	if most > 2000 {
		t.Errorf("%d ids were kept", most)
	}
}
