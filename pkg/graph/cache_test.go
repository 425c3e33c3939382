package graph

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"databus/pkg/blob"
	"databus/schemas/event"
)

// counted counts the objects that were asked for.
type counted struct {
	blob.Bucket
	gets int
}

func (c *counted) Get(ctx context.Context, key string) (io.ReadCloser, blob.Info, error) {
	c.gets++
	return c.Bucket.Get(ctx, key)
}

// store puts a graph of n persons into the bucket.
func store(t *testing.T, bucket blob.Bucket, version string, n int) *event.GraphVersion {
	t.Helper()
	var evidence []Evidence
	for i := range n {
		evidence = append(evidence, together(fmt.Sprint(i), 1, ident(Email, i), ident(Phone, i)))
	}
	return put(t, bucket, version, build(evidence...).File)
}

func put(t *testing.T, bucket blob.Bucket, version string, file []byte) *event.GraphVersion {
	t.Helper()
	sum := sha256.Sum256(file)
	v := &event.GraphVersion{Version: version, Object: "graphs/" + version + ".graph", Sha256: sum[:]}
	if _, err := bucket.Put(t.Context(), v.Object, bytes.NewReader(file), blob.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	return v
}

func files(t *testing.T, dir string) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestCacheFetchesOnceAndAgainWhatIsDamaged(t *testing.T) {
	bucket := &counted{Bucket: blob.NewMemory()}
	v := store(t, bucket, "g2", 100)
	dir := filepath.Join(t.TempDir(), "graphs")
	load := func(fetched int) {
		t.Helper()
		g, err := NewCache(bucket, dir, nil).Graph(t.Context(), v)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 100 {
			if fcid, known, _ := g.Lookup(ident(Phone, i)); !known || fcid != FCIDOf(ident(Email, i)) {
				t.Fatalf("identifier %d: %s, %v", i, fcid, known)
			}
		}
		if _, known, _ := g.Lookup(ident(Phone, 100)); known || g.Stats().Persons != 100 {
			t.Errorf("%+v", g.Stats())
		}
		if bucket.gets != fetched {
			t.Errorf("the object was fetched %d times, want %d", bucket.gets, fetched)
		}
		if all := files(t, dir); len(all) != 1 {
			t.Errorf("the directory holds %v", all)
		}
	}
	load(1)
	load(1)
	path := files(t, dir)[0]
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	other := build(together("1", 1, ident(Email, 7))).File
	changed := bytes.Clone(whole)
	changed[len(changed)/2] ^= 1
	for i, damage := range [][]byte{{}, whole[:10], whole[:len(whole)-1], append(bytes.Clone(whole), 0), changed, other} {
		if err := os.WriteFile(path, damage, 0o600); err != nil {
			t.Fatal(err)
		}
		load(2 + i)
	}
}

func TestCacheRefusesWhatIsNotTheAnnouncedGraph(t *testing.T) {
	bucket := blob.NewMemory()
	v := store(t, bucket, "g2", 3)
	dir := t.TempDir()
	cache := NewCache(bucket, dir, nil)
	whole := build(together("1", 1, ident(Email, 7))).File
	for name, object := range map[string][]byte{"another": whole, "cut": whole[:len(whole)/2], "empty": {}} {
		if _, err := bucket.Put(t.Context(), v.Object, bytes.NewReader(object), blob.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := cache.Graph(t.Context(), v); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), v.Object) || !strings.Contains(err.Error(), "g2") {
			t.Errorf("%s: %v", name, err)
		}
	}
	missing := *v
	missing.Object = "graphs/gone.graph"
	if _, err := cache.Graph(t.Context(), &missing); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("a missing object: %v", err)
	}
	// The announced file, of a format that is still to come, or no graph at all.
	newer := bytes.Clone(whole)
	newer[len(magic)] = 2
	if _, err := cache.Graph(t.Context(), put(t, bucket, "g3", newer)); !errors.Is(err, ErrFormat) || errors.Is(err, ErrCorrupt) ||
		!strings.Contains(err.Error(), "version 2, this program reads version 1") {
		t.Errorf("a newer format: %v", err)
	}
	if _, err := cache.Graph(t.Context(), put(t, bucket, "g4", []byte("no graph"))); !errors.Is(err, ErrCorrupt) {
		t.Errorf("no graph: %v", err)
	}
	for _, f := range files(t, dir) {
		if strings.HasSuffix(f, partSuffix) {
			t.Errorf("%s was left", f)
		}
	}
}

func TestCacheKeepsTheVersionsUsedLast(t *testing.T) {
	bucket := &counted{Bucket: blob.NewMemory()}
	dir := t.TempDir()
	cache := NewCache(bucket, dir, nil)
	old, young := filepath.Join(dir, "1"+partSuffix), filepath.Join(dir, "2"+partSuffix)
	for _, name := range []string{old, young} {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	age := func(path string, d time.Duration) {
		t.Helper()
		at := time.Now().Add(-d)
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	age(old, 2*partAge)
	var versions []*event.GraphVersion
	var graphs []*Graph
	use := func(i int) {
		t.Helper()
		g, err := cache.Graph(t.Context(), versions[i])
		if err != nil {
			t.Fatal(err)
		}
		graphs = append(graphs, g)
	}
	path := func(i int) string { return filepath.Join(dir, fmt.Sprintf("%x%s", versions[i].Sha256, graphSuffix)) }
	for i := range 5 {
		versions = append(versions, store(t, bucket, fmt.Sprint("g", i), 10+i))
	}
	for i := range 3 {
		use(i)
		age(path(i), time.Duration(10-i)*time.Hour)
	}
	use(0) // makes it the one used last
	use(3)
	for i, want := range []bool{true, false, true, true} {
		if _, err := os.Stat(path(i)); (err == nil) != want {
			t.Errorf("version %d: %v", i, err)
		}
	}
	if _, err := os.Stat(old); err == nil {
		t.Error("the rest of a broken transfer is still there")
	}
	if _, err := os.Stat(young); err != nil {
		t.Error("another process's transfer was removed")
	}
	if len(files(t, dir)) != maxCached+1 || bucket.gets != 4 {
		t.Errorf("%d fetched, there are %v", bucket.gets, files(t, dir))
	}
	// A graph whose file is gone is still whole, also after a collection.
	runtime.GC()
	for i := range 11 {
		if fcid, known, _ := graphs[1].Lookup(ident(Phone, i)); !known || fcid != FCIDOf(ident(Email, i)) {
			t.Fatalf("identifier %d: %s, %v", i, fcid, known)
		}
	}
}

func TestLookupsDoNotAllocate(t *testing.T) {
	bucket := blob.NewMemory()
	g, err := NewCache(bucket, t.TempDir(), nil).Graph(t.Context(), store(t, bucket, "g2", 5000))
	if err != nil {
		t.Fatal(err)
	}
	i := 0
	ids := make([]Identifier, 2)
	if n := testing.AllocsPerRun(2000, func() {
		ids[0], ids[1] = ident(Email, 10_000+i), ident(Phone, i)
		if fcid, ok := g.Resolve(ids); !ok || fcid != FCIDOf(ident(Email, i)) {
			t.Fatal("not resolved")
		}
		i++
	}); n != 0 {
		t.Errorf("a look-up makes %v allocations", n)
	}
}
