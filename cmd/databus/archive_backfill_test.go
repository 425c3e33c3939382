package main

import (
	"strings"
	"testing"

	"databus/schemas"
)

// What a bucket has lost is there again after a backfill, as verify proves.
func TestArchiveBackfill(t *testing.T) {
	a := newArchived(t, 900)
	x := a.tamper(t)
	x.remove(0)
	x.remove(2)
	where := "file://" + x.dir
	if r := a.run(t, "archive", "verify", "--bucket-url", where); r.code == 0 {
		t.Fatalf("verify finds nothing missing: %+v", r)
	}
	for i, want := range []string{"backfilled: 2 lost objects made again, 0 objects new,", "backfilled: 0 lost objects made again, 0 objects new,"} {
		if r := a.run(t, "archive", "backfill", schemas.UsageEvents, "--bucket-url", where); r.code != 0 || !strings.Contains(r.out, want) {
			t.Fatalf("run %d: %+v, want %q", i, r, want)
		}
	}
	if r := a.run(t, "archive", "verify", "--deep", "--bucket-url", where); r.code != 0 {
		t.Errorf("after the backfill: %+v", r)
	}
}
