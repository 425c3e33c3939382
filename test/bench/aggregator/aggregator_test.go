//go:build servers

package aggregator

import (
	"strings"
	"testing"
	"time"
)

// The bench runs from end to end at a tiny size; its figures mean nothing here.
func TestBench(t *testing.T) {
	var out strings.Builder
	err := Run(t.Context(), Options{Events: 20_000, Keys: 600, Pairs: 1, Rate: 100, Warm: time.Second, Latency: time.Second, Variant: "dedup", Dir: t.TempDir(), Out: &out})
	if err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	if !strings.Contains(out.String(), "figure: relay_latency_p99 ") {
		t.Errorf("there is no figure relay_latency_p99 in:\n%s", out.String())
	}
	if strings.Contains(out.String(), "figure: recall_after_kill_seconds_dedup 0 ") { // it is read from the service's log
		t.Errorf("no id was made anew behind a kill:\n%s", out.String())
	}
	for _, name := range []string{"events_per_cpu_second_ratio", "rss_ratio", "broker_cpu_ratio", "restart_after_kill_seconds", "ceiling_share", "latency_p99_ratio", "recall_after_kill_seconds"} {
		if !strings.Contains(out.String(), "figure: "+name+"_dedup ") {
			t.Errorf("there is no figure %s_dedup in:\n%s", name, out.String())
		}
	}
}
