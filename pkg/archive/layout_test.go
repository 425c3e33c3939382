package archive_test

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"databus/pkg/archive"
	"databus/pkg/blob"
)

func TestFreeze(t *testing.T) {
	bucket := blob.NewMemory()
	l := archive.NewLayout("usage.events", false)
	for range 2 {
		if err := archive.Freeze(t.Context(), bucket, "archive", l); err != nil {
			t.Fatal(err)
		}
	}
	b, _, err := blob.ReadAll(t.Context(), bucket, "archive/usage.events/_layout.json", 1000)
	const want = `{
  "topic": "usage.events",
  "names": "dt=YYYY-MM-DD/hr=HH/topic+partition+first.parquet",
  "key_filter": false
}
`
	if err != nil || string(b) != want {
		t.Errorf("%s, %v", b, err)
	}
	if err := archive.Freeze(t.Context(), bucket, "archive", archive.NewLayout("usage.events", true)); !errors.Is(err, archive.ErrLayout) || !strings.Contains(err.Error(), "key_filter is false, not true") {
		t.Errorf("another layout: %v", err)
	}
	for _, text := range []string{"{", `{"topic":"usage.events","shape":1}`} {
		if _, err := bucket.Put(t.Context(), "archive/usage.events/_layout.json", strings.NewReader(text), blob.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := archive.Freeze(t.Context(), bucket, "archive", l); !errors.Is(err, archive.ErrLayout) {
			t.Errorf("%s: %v", text, err)
		}
	}

	// Of two that begin with different layouts, one wins.
	var wg sync.WaitGroup
	errs := make([]error, 16)
	for i := range errs {
		wg.Go(func() { errs[i] = archive.Freeze(t.Context(), bucket, "", archive.NewLayout("t", i%2 == 0)) })
	}
	wg.Wait()
	for i := range errs {
		if (errs[i] == nil) != (errs[i%2] == nil) || (errs[0] == nil) == (errs[1] == nil) {
			t.Fatalf("%v", errs)
		}
	}
}
