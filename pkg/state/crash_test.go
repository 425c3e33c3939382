package state

import (
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"databus/pkg/state/statetest"
)

const crashPartitions = 3

// A logged transaction is what the changelog of a partition holds, and what the partition's rows must be behind it.
type logged struct {
	rows   map[string]string // empty: deleted
	digest uint64            // of all rows
}

// machine is a model of a service on a machine that loses power: the changelog is safe elsewhere, the disk is not.
type machine struct {
	t     *testing.T
	rng   *rand.Rand
	disk  *vfs.MemFS
	log   [crashPartitions][]logged
	now   [crashPartitions]map[string]string // rows at the end of the log
	sum   [crashPartitions]uint64            // their digest
	wiped int                                // partitions that came back without rows
	kept  int                                // with all of them
	lag   int                                // with older ones
	inits int                                // crashes inside a first open
}

// hash of a row; the digest of rows is all of theirs, combined in any order.
func hash(key, value string) uint64 {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s=%d %s", key, len(value), value[:min(len(value), 20)]) // the rest is padding
	return h.Sum64()
}

// live opens the state, checks it against the changelog, replays what is missing and goes on, until the power fails at
// the n-th write.
func (m *machine) live(n int64) {
	var writes atomic.Int64
	var left atomic.Pointer[vfs.MemFS]
	disk := m.disk
	lost := []int{0, 10, 50, 90, 100}[m.rng.IntN(5)]
	coin := rand.New(rand.NewPCG(m.rng.Uint64(), 1))
	fs := errorfs.Wrap(statetest.Disk{MemFS: disk}, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() == errorfs.OpIsWrite && writes.Add(1) == n {
			left.Store(disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100 - lost, RNG: coin}))
		}
		return nil
	}))
	dead := func() bool { return left.Load() != nil }
	db, err := Open(Options{Dir: "d", Service: "svc", Instance: "0", FS: fs, CacheBytes: 1 << 20, MemTableBytes: 128 << 10})
	if err != nil {
		m.t.Fatalf("opening behind a crash: %v", err)
	}
	if dead() {
		m.inits++
	}
	var at [crashPartitions]int
	for p := range at {
		at[p] = m.check(db, int32(p))
		if m.rng.IntN(40) == 0 { // the changelog was cut behind its position
			if err := db.DropPartition(int32(p)); err != nil {
				m.t.Fatal(err)
			}
			at[p] = 0
			if m.rng.IntN(2) == 0 { // the power fails before the first rows are back
				at[p] = -1
			}
		}
	}
	for p := range at { // restore: several transactions in a batch
		for at[p] >= 0 && at[p] < len(m.log[p]) && !dead() {
			next := min(len(m.log[p]), at[p]+1+m.rng.IntN(20))
			b := db.NewBatch()
			for ; at[p] < next; at[p]++ {
				m.set(b, int32(p), m.log[p][at[p]].rows)
			}
			m.commit(b, int32(p))(b.SetPosition(int32(p), Position{Logs: map[string]int64{"log": int64(next)}, Inputs: map[string]int64{"in": int64(next)}}))
		}
	}
	for !dead() { // transactions, some over several partitions
		b := db.NewBatch()
		var errs []error
		for p := range at {
			if at[p] < 0 || m.rng.IntN(2) == 0 {
				continue
			}
			m.transact(p)
			m.set(b, int32(p), m.log[p][len(m.log[p])-1].rows)
			end := int64(len(m.log[p]))
			errs = append(errs, b.SetPosition(int32(p), Position{Logs: map[string]int64{"log": end}, Inputs: map[string]int64{"in": end}}))
		}
		m.commit(b, 0)(errors.Join(errs...))
		if writes.Load() > n+5000 {
			m.t.Fatal("the power does not fail")
		}
		if at == [crashPartitions]int{-1, -1, -1} {
			left.CompareAndSwap(nil, disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100 - lost, RNG: coin}))
		}
	}
	if err := db.Close(); err != nil { // of a process that does not exist any more
		m.t.Fatal(err)
	}
	m.disk = left.Load()
}

// transact appends a transaction to the changelog: Kafka has it before Pebble.
func (m *machine) transact(p int) {
	rows := map[string]string{}
	for range 1 + m.rng.IntN(4) {
		key, value := fmt.Sprintf("k%02d", m.rng.IntN(40)), ""
		if m.rng.IntN(5) > 0 {
			value = fmt.Sprintf("%d/%d ", p, len(m.log[p])) + strings.Repeat(".", 200<<m.rng.IntN(5))
		}
		if old, ok := m.now[p][key]; ok {
			m.sum[p] ^= hash(key, old)
			delete(m.now[p], key)
		}
		if value != "" {
			m.sum[p] ^= hash(key, value)
			m.now[p][key] = value
		}
		rows[key] = value
	}
	m.log[p] = append(m.log[p], logged{rows, m.sum[p]})
}

func (m *machine) set(b *Batch, p int32, rows map[string]string) {
	for key, value := range rows {
		var v []byte
		if value != "" {
			v = []byte(value)
		}
		if err := b.Set(p, "s", []byte(key), v); err != nil {
			m.t.Fatal(err)
		}
	}
}

func (m *machine) commit(b *Batch, _ int32) func(error) {
	return func(err error) {
		if err := errors.Join(err, b.Commit(), b.Close()); err != nil {
			m.t.Fatal(err)
		}
	}
}

// check compares a partition with the changelog up to the position that it claims, and returns that.
func (m *machine) check(db *DB, p int32) int {
	m.t.Helper()
	pos, ok, err := db.Position(p)
	if err != nil {
		m.t.Fatalf("partition %d behind a crash: %v", p, err)
	}
	rows, sum := 0, uint64(0)
	r, err := db.NewReader(p)
	if err == nil {
		err = errors.Join(r.Scan("s", nil, func(k, v []byte) bool {
			rows++
			sum ^= hash(string(k), string(v))
			return true
		}), r.Close())
	}
	if err != nil {
		m.t.Fatalf("partition %d behind a crash: %v", p, err)
	}
	at := int(pos.Logs["log"])
	switch {
	case at > len(m.log[p]) || ok && at == 0:
		m.t.Fatalf("partition %d is at %d, the changelog ends at %d", p, at, len(m.log[p]))
	case at == 0 && rows > 0:
		m.t.Fatalf("partition %d has %d rows and no position", p, rows)
	case at > 0 && (pos.Inputs["in"] != int64(at) || sum != m.log[p][at-1].digest):
		m.t.Fatalf("partition %d: its rows are not those of its position %d", p, at)
	}
	switch {
	case len(m.log[p]) == 0:
	case at == 0:
		m.wiped++
	case at == len(m.log[p]):
		m.kept++
	default:
		m.lag++
	}
	return at
}

// The power fails at a write, again and again, on the disk that the last failure left: each time a part of what was not
// synced is gone. Whatever is left must open, and hold for each partition the rows of exactly the transaction that its
// position names. The writes of a life are gone through one after the other, those of the first open too.
func TestCrashAtWrites(t *testing.T) {
	m := &machine{t: t, rng: rand.New(rand.NewPCG(11, 12))}
	const longest = 150 // writes of the longest life: opening takes about 20
	for i := range int64(crashPoints) {
		if i%longest == 0 { // a new machine
			m.disk = vfs.NewCrashableMem()
			m.log = [crashPartitions][]logged{}
			for p := range m.now {
				m.now[p], m.sum[p] = map[string]string{}, 0
			}
		}
		if i%longest < longest/5 { // the first open, write by write
			m.disk = vfs.NewCrashableMem()
		}
		m.live(1 + i%longest)
	}
	t.Logf("%d crashes, %d inside an open; partitions came back complete %d times, older %d times, empty %d times", crashPoints, m.inits, m.kept, m.lag, m.wiped)
	for what, n := range map[string]int{"complete": m.kept, "older": m.lag, "empty": m.wiped, "crashed inside an open": m.inits} {
		if n < crashPoints/100 {
			t.Errorf("%s: only %d times of %d crashes", what, n, crashPoints)
		}
	}
	t.Logf("figure: state_crash_points %d points (goal %d)", crashPoints, crashPoints)
	t.Logf("figure: state_wrong_after_crash 0 partitions (goal 0)")
}
