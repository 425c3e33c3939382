package stream

import (
	"errors"
	"maps"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"databus/pkg/state"
	"databus/pkg/state/statetest"
)

// The power fails at a random write of the state, under the whole loop, again and again on the disk that is left. It opens
// or is restored; outputs and rows stay exact. (Package state goes through its writes one by one.)
func TestPowerFailures(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	rng := rand.New(rand.NewPCG(5, 6))
	disk := vfs.NewCrashableMem()
	crashed := 0
	for i := range powerFailures {
		// Small writes are collected in memory, so few reach the disk behind the open: then the clock decides.
		at, latest := 1+rng.Int64N(60), time.After(time.Duration(100+rng.IntN(300))*time.Millisecond)
		var writes atomic.Int64
		var left atomic.Pointer[vfs.MemFS]
		on, coin, lost := disk, rand.New(rand.NewPCG(rng.Uint64(), 1)), 10*rng.IntN(11)
		o := b.options("0", "state")
		var once sync.Once
		fail := func() {
			once.Do(func() { left.Store(on.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100 - lost, RNG: coin})) })
		}
		o.StateFS = errorfs.Wrap(statetest.Disk{MemFS: on}, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind.ReadOrWrite() == errorfs.OpIsWrite && writes.Add(1) == at {
				fail()
			}
			return nil
		}))
		o.Crash = func(Point) error {
			if left.Load() != nil {
				return errCrash
			}
			return nil
		}
		r := b.start(o)
		quiet, down := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(quiet)
			for {
				select {
				case <-down:
					return
				case <-latest:
					fail()
				case <-time.After(5 * time.Millisecond):
					b.events(5)
				}
			}
		}()
		err := r.wait()
		close(down)
		<-quiet
		if !errors.Is(err, errCrash) {
			t.Fatalf("life %d ended with %v", i, err)
		}
		crashed++
		disk = left.Load()
	}
	o := b.options("0", "state")
	o.StateFS = disk
	r := b.start(o)
	b.caughtUp(r)
	r.finish()
	b.check(nil)
	db, err := state.Open(state.Options{Dir: "state", FS: disk, Service: group, Instance: "0"})
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]int64{}
	for p := range int32(parts) {
		rd, err := db.NewReader(p)
		if err != nil {
			t.Fatal(err)
		}
		err = rd.Scan("sums", nil, func(k, v []byte) bool {
			rows[string(k)], _ = strconv.ParseInt(string(v), 10, 64)
			return true
		})
		if err := errors.Join(err, rd.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(rows, b.sums) {
		t.Errorf("state   %v\nwant    %v", rows, b.sums)
	}
	t.Logf("figure: power_failures %d (goal %d)", crashed, powerFailures)
}
