package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"databus/pkg/state/statetest"
)

func open(t *testing.T, fs vfs.FS, dir string) *DB {
	t.Helper()
	db, err := Open(Options{Dir: dir, Service: "svc", Instance: "0", FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func write(t *testing.T, db *DB, partition int32, pos Position, rows ...string) {
	t.Helper()
	b := db.NewBatch()
	for i := 0; i < len(rows); i += 3 {
		var v []byte
		if rows[i+2] != "" {
			v = []byte(rows[i+2])
		}
		if err := b.Set(partition, rows[i], []byte(rows[i+1]), v); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(b.SetPosition(partition, pos), b.Commit(), b.Close()); err != nil {
		t.Fatal(err)
	}
}

func scan(t *testing.T, db *DB, partition int32, store, prefix string) string {
	t.Helper()
	r, err := db.NewReader(partition)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	if err := r.Scan(store, []byte(prefix), func(k, v []byte) bool {
		got = append(got, string(k)+"="+string(v))
		point, ok, err := r.Get(nil, store, k) // Get during Scan
		if err != nil || !ok || string(point) != string(v) {
			t.Errorf("Get(%q) during Scan = %q, %v, %v; scanned %q", k, point, ok, err, v)
		}
		return true
	}); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	return strings.Join(got, " ")
}

func TestRows(t *testing.T) {
	db := open(t, nil, t.TempDir())
	defer db.Close()
	pos := Position{Logs: map[string]int64{"log": 7}, Inputs: map[string]int64{"in": 3}, At: time.Unix(9, 0).UTC()}
	write(t, db, 1, pos, "a", "x/1", "1", "a", "x/2", "2", "a", "y/1", "3", "ab", "x/1", "other store")
	write(t, db, 2, Position{Logs: map[string]int64{"log": 1}}, "a", "x/1", "partition 2")
	write(t, db, 256, Position{Logs: map[string]int64{"log": 1}}, "a", "x/1", "partition 256")

	for _, c := range []struct {
		partition           int32
		store, prefix, want string
	}{
		{1, "a", "x/", "x/1=1 x/2=2"},
		{1, "a", "", "x/1=1 x/2=2 y/1=3"},
		{1, "ab", "", "x/1=other store"},
		{1, "abc", "", ""},
		{2, "a", "", "x/1=partition 2"},
		{3, "a", "", ""},
	} {
		if got := scan(t, db, c.partition, c.store, c.prefix); got != c.want {
			t.Errorf("scan %d %s %q = %q, want %q", c.partition, c.store, c.prefix, got, c.want)
		}
	}
	write(t, db, 1, pos, "a", "x/1", "")
	if got := scan(t, db, 1, "a", "x/"); got != "x/2=2" {
		t.Errorf("after delete: %q", got)
	}
	if got, ok, err := db.Position(1); err != nil || !ok || !reflect.DeepEqual(got, pos) {
		t.Errorf("position = %+v, %v, %v", got, ok, err)
	}
	if err := db.DropPartition(1); err != nil {
		t.Fatal(err)
	}
	if _, ok, _ := db.Position(1); ok || scan(t, db, 1, "a", "") != "" {
		t.Error("partition 1 survived its drop")
	}
	if all, err := db.Partitions(); err != nil || fmt.Sprint(all) != "[2 256]" {
		t.Errorf("partitions = %v, %v", all, err)
	}
}

// A cache of 0 bytes was once what memtables had left of it.
func TestCacheIsLeft(t *testing.T) {
	db := open(t, nil, t.TempDir())
	defer db.Close()
	for i := range 40 {
		b := db.NewBatch()
		for j := range 1000 {
			if err := b.Set(0, "s", fmt.Appendf(nil, "%d-%d", i, j), make([]byte, 100)); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(b.Commit(), b.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.db.Flush(); err != nil {
		t.Fatal(err)
	}
	scan(t, db, 0, "s", "1")
	if size := db.db.Metrics().BlockCache.Size; size == 0 {
		t.Error("the block cache holds nothing after 11,000 rows were read: the memtables took all of it")
	}
}

func TestForeignDirectories(t *testing.T) {
	dir := t.TempDir()
	if err := open(t, nil, dir).Close(); err != nil {
		t.Fatal(err)
	}
	for _, o := range []Options{
		{Dir: dir, Service: "svc", Instance: "1"},
		{Dir: dir, Service: "other", Instance: "0"},
	} {
		if _, err := Open(o); !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), `service "svc", instance "0"`) {
			t.Errorf("%+v: %v", o, err)
		}
	}
	b, _ := json.Marshal(owner{Format: FormatVersion + 1, Service: "svc", Instance: "0"})
	put(t, vfs.Default, dir, b)
	if _, err := Open(Options{Dir: dir, Service: "svc", Instance: "0"}); !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), "run the newer version") {
		t.Errorf("newer format: %v", err)
	}
	put(t, vfs.Default, dir, []byte("torn"))
	if _, err := Open(Options{Dir: dir, Service: "svc", Instance: "0"}); !errors.Is(err, ErrForeign) {
		t.Errorf("torn identity: %v", err)
	}
}

func put(t *testing.T, fs vfs.FS, dir string, b []byte) {
	t.Helper()
	f, err := fs.Create(fs.PathJoin(dir, identity), vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Write(b)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// Crashes the machine at every file system operation of a first open and 40 transactions. Whatever is left must open,
// and hold for each partition the rows of exactly the transaction that its position names.
// A power failure may leave the marker of a manifest whose own name is lost: the state is made anew, and inspection says so.
func TestLostManifest(t *testing.T) {
	fs := vfs.NewMem()
	db := open(t, fs, "d")
	write(t, db, 1, Position{Inputs: map[string]int64{"in": 5}}, "s", "a", "1")
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := fs.List("d/db")
	if err != nil {
		t.Fatal(err)
	}
	lost := 0
	for _, name := range files {
		if strings.HasPrefix(name, "MANIFEST-") {
			lost++
			if err := fs.Remove("d/db/" + name); err != nil {
				t.Fatal(err)
			}
		}
	}
	if lost == 0 {
		t.Fatalf("there is no manifest among %v", files)
	}
	if _, err := Open(Options{Dir: "d", Service: "svc", Instance: "0", FS: fs, ReadOnly: true}); err == nil || !strings.Contains(err.Error(), "delete the directory") {
		t.Errorf("inspection: %v", err)
	}
	db = open(t, fs, "d")
	if _, ok, err := db.Position(1); ok || err != nil {
		t.Errorf("a position is left: %v, %v", ok, err)
	}
	write(t, db, 1, Position{Inputs: map[string]int64{"in": 6}}, "s", "b", "2")
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = open(t, fs, "d")
	defer db.Close()
	if got := scan(t, db, 1, "s", ""); got != "b=2" {
		t.Errorf("rows %s", got)
	}
}

func TestCrashAtEveryOperation(t *testing.T) {
	run := func(crashAt int64) (_ *vfs.MemFS, ops int64, committed int) {
		var clone atomic.Pointer[vfs.MemFS] // Pebble's own goroutines write files as well
		mem := vfs.NewCrashableMem()
		var n atomic.Int64
		rng := rand.New(rand.NewPCG(uint64(crashAt), 1))
		fs := errorfs.Wrap(statetest.Disk{MemFS: mem}, errorfs.InjectorFunc(func(errorfs.Op) error {
			if n.Add(1) == crashAt {
				// Of what was not synced, about half of the blocks survive.
				clone.Store(mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rng}))
			}
			return nil
		}))
		db, err := Open(Options{Dir: "d", Service: "svc", Instance: "0", FS: fs, CacheBytes: 1 << 20, MemTableBytes: 256 << 10})
		if err != nil {
			t.Fatal(err)
		}
		for i := 1; i <= 40 && clone.Load() == nil; i++ {
			p := int32(i % 2)
			v := fmt.Sprintf("%d%s", i, strings.Repeat(".", 20000)) // large, so that memtables are flushed meanwhile
			write(t, db, p, Position{Logs: map[string]int64{"log": int64(i)}}, "a", "k", v, "b", "k", v)
			committed = i
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		return clone.Load(), n.Load(), committed
	}
	_, total, _ := run(-1)
	wiped, kept := 0, 0
	for at := int64(1); at <= total; at += 1 + total/150 {
		clone, _, committed := run(at)
		if clone == nil {
			continue // background work differs a little from run to run
		}
		db, err := Open(Options{Dir: "d", Service: "svc", Instance: "0", FS: clone})
		if err != nil {
			t.Fatalf("crash at operation %d: %v", at, err)
		}
		for p := int32(0); p < 2; p++ {
			pos, ok, err := db.Position(p)
			if err != nil {
				t.Fatal(err)
			}
			if int(pos.Logs["log"]) > committed+1 {
				t.Errorf("crash at operation %d: position %d, committed %d", at, pos.Logs["log"], committed)
			}
			want := ""
			if ok {
				kept++
				want = fmt.Sprintf("k=%d%s", pos.Logs["log"], strings.Repeat(".", 20000))
			} else {
				wiped++
			}
			if a, b := scan(t, db, p, "a", ""), scan(t, db, p, "b", ""); a != want || b != want {
				t.Errorf("crash at operation %d: partition %d has rows %.10q and %.10q at position %d", at, p, a, b, pos.Logs["log"])
			}
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if wiped == 0 || kept == 0 {
		t.Errorf("%d partitions came back empty and %d with rows: both must occur", wiped, kept)
	}
}
