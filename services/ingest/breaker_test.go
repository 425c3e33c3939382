package ingest

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestBreaker(t *testing.T) {
	now := time.Unix(1000, 0)
	gauge := prometheus.NewGauge(prometheus.GaugeOpts{Name: "open"})
	b := newBreaker(gauge)
	b.now = func() time.Time { return now }
	expect := func(what string, allowed, open bool) {
		t.Helper()
		if got := !b.refuses(); got != allowed {
			t.Errorf("%s: refuses is %v", what, !got)
		}
		if got := testutil.ToFloat64(gauge) == 1; got != open {
			t.Errorf("%s: open is %v", what, got)
		}
	}
	for range breakerFailures - 1 {
		b.report(false)
	}
	expect("one failure less", true, false)
	b.report(true)
	for range breakerFailures - 1 {
		b.report(false)
	}
	expect("a success between", true, false)
	b.report(false)
	expect("failures in a row", false, true)
	if b.allow() {
		t.Error("an open breaker allows")
	}
	now = now.Add(breakerPause)
	expect("after the pause", true, true)
	if first, second := b.allow(), b.allow(); !first || second {
		t.Error("there is not exactly one trial")
	}
	b.report(false)
	expect("a trial that failed", false, true)
	now = now.Add(breakerPause)
	if !b.allow() {
		t.Error("there is no second trial")
	}
	b.report(true)
	expect("a trial that succeeded", true, false)
	for range 2 {
		if !b.allow() {
			t.Error("a closed breaker refuses")
		}
	}
}
