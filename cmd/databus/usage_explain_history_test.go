package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"databus/schemas"
	"databus/schemas/event"
	usageaggregator "databus/services/usage-aggregator"
)

// A count that history was added to is explained from the events behind the seam and the answer; the archive's files are
// named that hold the offsets before it, also once retention has cut them.
func TestUsageExplainNamesHistory(t *testing.T) {
	cfg := usageaggregator.Default()
	cfg.CommitInterval, cfg.History.Enabled = 10*time.Millisecond, true
	c := startCounting(t, cfg)
	c.usage("a", 0, 1)
	c.usage("b", 0, 2)
	c.contract(1, "Pacific/Kiritimati", 40)
	seam := c.usage("c", 0, 4)
	c.counted()
	period := "month:" + time.Now().In(time.FixedZone("", 14*3600)).Format("2006-01") + "@2"
	for first := range int64(3) {
		put(t, c.opts, c.c, schemas.ArchiveFiles, fmt.Sprintf("usage.events/%d/%d", c.home, first), &event.ArchiveFile{Topic: schemas.UsageEvents, Partition: c.home,
			Object: fmt.Sprintf("archive/%d.parquet", first), First: first, Next: first + 1, Rows: 1, Sha256: []byte{}})
	}
	put(t, c.opts, c.c, schemas.UsageBaselines, "acme", &event.Baseline{RequestID: "acme/*/" + period + "/1", Account: "acme", Pack: "*", Period: period, SeamPartition: c.home,
		SeamOffset: seam, Matched: 100, AmountMicros: 14, Events: 2, Providers: []event.ProviderBaseline{}})
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if out := c.ok(t, "usage", "counts", "acme", "--format", "json"); strings.Count(out, `"provisional":true`) == 2 {
			break // the pack's own month and the contract's month wait still
		}
		if time.Now().After(deadline) {
			t.Fatal("the answer is not added")
		}
	}
	check := func(when string) {
		t.Helper()
		var x struct {
			Verdict string            `json:"verdict"`
			History *explainedHistory `json:"history"`
			Files   []explainedFile   `json:"archive_files"`
		}
		r := c.run(t, "usage", "explain", "acme", "--period", period, "--format", "json")
		if err := json.Unmarshal([]byte(r.out), &x); err != nil || r.code != 0 || x.Verdict != "equal" || x.History == nil || x.History.Seam != seam || x.History.Matched != 100 {
			t.Fatalf("%s: %s %s %v", when, r.out, r.err, err)
		}
		if seam != 2 || len(x.Files) != 2 || x.Files[0].Object != "archive/0.parquet" || x.Files[1].Next != 2 {
			t.Errorf("%s: the files below %d are %+v", when, seam, x.Files)
		}
		out := c.ok(t, "usage", "explain", "acme", "--period", period)
		for _, want := range []string{"history       matched 100, not matched 0, amount 0.000014, from 2 events, offsets 0 to 1; ", "archive files that may hold events of the count: 2", "@1-1  archive/1.parquet"} {
			if !strings.Contains(out, want) {
				t.Errorf("%s: no %q in\n%s", when, want, out)
			}
		}
	}
	check("before the cut")
	cut := kadm.Offsets{}
	cut.Add(kadm.Offset{Topic: schemas.UsageEvents, Partition: c.home, At: seam})
	if _, err := c.adm.DeleteRecords(t.Context(), cut); err != nil {
		t.Fatal(err)
	}
	check("behind the cut")
}
