package seal

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/internal/kafkatest"
	"databus/schemas"
	"databus/schemas/event"
)

// cable is a connection to Kafka that can be pulled.
type cable struct {
	pulled atomic.Bool
	mu     sync.Mutex
	conns  []net.Conn
}

func (c *cable) dial(ctx context.Context, network, host string) (net.Conn, error) {
	if c.pulled.Load() {
		return nil, errors.New("the cable is pulled")
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, host)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conns = append(c.conns, conn)
	return conn, err
}

func (c *cable) pull() {
	c.pulled.Store(true)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		conn.Close()
	}
}

func openHolder(t testing.TB, bed *kafkatest.Bed, keys *Keys, name string, lease time.Duration, c *cable) *Keyring {
	t.Helper()
	opts := slices.Clone(bed.Opts)
	if c != nil {
		opts = append(opts, kgo.Dialer(c.dial))
	}
	k, err := OpenKeyring(t.Context(), Options{Kafka: opts, Codec: bed.Codec, Keys: keys, Holder: name, Lease: lease})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	if err := k.CaughtUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	return k
}

// unwrapped is how many keys are unwrapped in memory.
func unwrapped(k *Keyring) int {
	k.cache.mu.Lock()
	defer k.cache.mu.Unlock()
	return k.cache.n
}

func caughtUp(t testing.TB, rings ...*Keyring) {
	t.Helper()
	for _, k := range rings {
		if err := k.CaughtUp(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// Where every holder answers, nobody waits for the lease, and the receipt names them.
func TestReceiptFollowsTheHolders(t *testing.T) {
	bed := kafkatest.New(t, schemas.KeysEvents)
	keys, _ := generate(t)
	a, b := openHolder(t, bed, keys, "ingest.a", Lease, nil), openHolder(t, bed, keys, "rebuilder.b", Lease, nil)
	rec := record(t, a, "acme", "r", "v")
	if _, err := b.Open(t.Context(), nil, rec); err != nil {
		t.Fatal(err)
	}
	command := openKeyring(t, bed, keys, 0)
	began := time.Now()
	receipt, err := command.Shred(t.Context(), Shred{Account: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("the receipt took %v although everybody answered", took)
	}
	if !slices.Equal(receipt.Holders, []string{"ingest.a", "rebuilder.b"}) || len(receipt.Expired) != 0 {
		t.Errorf("%+v", receipt)
	}
	// No catching up in between: they have said that they know.
	for name, k := range map[string]*Keyring{"a": a, "b": b} {
		if _, revoked := k.entry(rec.KeyID); !revoked {
			t.Errorf("%s has answered and not dropped the key", name)
		}
		if n := unwrapped(k); n != 0 {
			t.Errorf("%s still has %d unwrapped keys", name, n)
		}
	}
	caughtUp(t, a)
	if got := a.Receipts("acme"); len(got) != 1 || got[0].ID != receipt.ID || !got[0].BackupsUntil.Equal(receipt.BackupsUntil) || !slices.Equal(got[0].Holders, receipt.Holders) {
		t.Errorf("on keys.events: %+v", got)
	}
	// One that ends orderly is not waited for.
	b.Close()
	caughtUp(t, command)
	if got := command.Holders(); !slices.Equal(got, []string{"ingest.a"}) {
		t.Errorf("holders: %v", got)
	}
	// One that starts later knows, answers nothing that is over, and keeps the topic from growing.
	late := openHolder(t, bed, keys, "catchup.c", Lease, nil)
	late.mu.RLock()
	defer late.mu.RUnlock()
	if n := len(late.shreds.open); n != 0 {
		t.Errorf("%d shreddings are still open", n)
	}
}

// A holder that is cut off uses no key when its lease is over, and the receipt waits for that long.
func TestLeaseEndsWithoutKafka(t *testing.T) {
	bed := kafkatest.New(t, schemas.KeysEvents)
	keys, _ := generate(t)
	const lease = 4 * time.Second
	var line cable
	a, cut := openHolder(t, bed, keys, "ingest.a", lease, nil), openHolder(t, bed, keys, "ingest.cut", lease, &line)
	rec := record(t, a, "acme", "r", "v")
	other := record(t, a, "other", "r", "v")
	if _, err := cut.Open(t.Context(), nil, rec); err != nil {
		t.Fatal(err)
	}
	line.pull()
	began := time.Now()
	done := make(chan time.Time)
	go func() { // it opens as long as it may
		for {
			bounded, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			_, err := cut.Open(bounded, nil, rec)
			cancel()
			if err != nil {
				if !errors.Is(err, ErrStale) {
					t.Errorf("the end of the lease: %v", err)
				}
				done <- time.Now()
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	}()
	command, err := OpenKeyring(t.Context(), Options{Kafka: bed.Opts, Codec: bed.Codec, Keys: keys, Lease: lease})
	if err != nil {
		t.Fatal(err)
	}
	defer command.Close()
	receipt, err := command.Shred(t.Context(), Shred{Account: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	answered := time.Now()
	last := <-done
	if last.Sub(began) > lease+200*time.Millisecond { // the attempt itself may take 100 ms
		t.Errorf("the key was used for %v after the cut, the lease is %v", last.Sub(began), lease)
	}
	if !slices.Equal(receipt.Holders, []string{"ingest.a"}) || !slices.Equal(receipt.Expired, []string{"ingest.cut"}) || answered.Sub(began) < lease {
		t.Errorf("%+v after %v", receipt, answered.Sub(began))
	}
	for deadline := time.Now().Add(10 * time.Second); unwrapped(cut) != 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d keys are in memory without a lease", unwrapped(cut))
		}
	}
	line.pulled.Store(false)
	if _, err := cut.Open(t.Context(), nil, rec); !errors.Is(err, ErrRevoked) {
		t.Errorf("connected again: %v", err)
	}
	if _, err := cut.Open(t.Context(), nil, other); err != nil {
		t.Errorf("another account's record: %v", err)
	}
	// It was taken from the list, and comes back by itself.
	deadline := time.Now().Add(10 * time.Second)
	for !slices.Contains(command.Holders(), "ingest.cut") {
		if time.Now().After(deadline) {
			t.Fatalf("holders: %v", command.Holders())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func TestShredRecords(t *testing.T) {
	bed := kafkatest.New(t, schemas.KeysEvents)
	keys, _ := generate(t)
	a, b := openHolder(t, bed, keys, "a", Lease, nil), openHolder(t, bed, keys, "b", Lease, nil)
	before := record(t, a, "acme", "r0", "0")
	if _, err := a.Shred(t.Context(), Shred{Account: "acme", RecordKeys: []string{"r0"}}); !errors.Is(err, ErrNoOwnKey) {
		t.Fatalf("a record without its own key: %v", err)
	}
	if _, err := b.Rotate(t.Context(), "acme", RecordScope); err != nil {
		t.Fatal(err)
	}
	caughtUp(t, a)
	one, two := record(t, a, "acme", "r1", "1"), record(t, b, "acme", "r2", "2")
	same := record(t, b, "acme", "r1", "1b")
	if one.KeyID == two.KeyID || one.KeyID != same.KeyID || one.KeyID == before.KeyID {
		t.Fatalf("keys %s, %s, %s", one.KeyID, two.KeyID, same.KeyID)
	}
	opens := func(ring *Keyring, rec *event.DatabusRecord, want error) {
		t.Helper()
		if _, err := ring.Open(t.Context(), nil, rec); !errors.Is(err, want) {
			t.Errorf("record %s: %v, want %v", rec.RecordKey, err, want)
		}
	}
	moved := *one
	moved.RecordKey = "r2"
	opens(a, &moved, ErrTampered)
	// After a rotation each record gets a key under the new one, and the old one opens.
	if _, err := a.Rotate(t.Context(), "acme", SameScope); err != nil {
		t.Fatal(err)
	}
	caughtUp(t, b)
	newer := record(t, b, "acme", "r1", "1c")
	if newer.KeyID == one.KeyID {
		t.Error("a rotation does not reach records' keys")
	}
	opens(a, one, nil)

	if _, err := a.Shred(t.Context(), Shred{Account: "acme", RecordKeys: []string{"r1", "r0"}}); !errors.Is(err, ErrNoOwnKey) {
		t.Fatalf("one of two records has no key: %v", err)
	}
	opens(a, one, nil) // and nothing was revoked
	receipt, err := a.Shred(t.Context(), Shred{Account: "acme", RecordKeys: []string{"r1"}})
	if err != nil || receipt.Keys != 2 || !slices.Equal(receipt.Remaining, []string{before.KeyID}) {
		t.Fatalf("%+v, %v; the account's first key, %s, is left", receipt, err, before.KeyID)
	}
	late := openKeyring(t, bed, keys, 0)
	for _, ring := range []*Keyring{a, b, late} {
		opens(ring, one, ErrRevoked)
		opens(ring, newer, ErrRevoked)
		opens(ring, two, nil)
		opens(ring, before, nil)
		if _, err := ring.Sealer(t.Context(), "acme", "r1"); !errors.Is(err, ErrRevoked) {
			t.Errorf("a shredded record is sealed: %v", err)
		}
		if _, err := ring.Sealer(t.Context(), "acme", "r3"); err != nil {
			t.Errorf("another record: %v", err)
		}
	}
	who := func(account, recordKey string) bool {
		t.Helper()
		s, err := ReadShredded(t.Context(), bed.Opts, bed.Codec)
		if err != nil {
			t.Fatal(err)
		}
		return s.Record(account, recordKey)
	}
	if !who("acme", "r1") || who("acme", "r2") || who("other", "r1") {
		t.Error("it is not r1 that was shredded")
	}
	// The account's end is that of its records' keys, without an event for each.
	opens(b, two, nil)
	if receipt, err = a.Shred(t.Context(), Shred{Account: "acme"}); err != nil || receipt.Keys != 3 {
		t.Fatalf("%+v, %v", receipt, err)
	}
	for _, ring := range []*Keyring{a, b, late, openKeyring(t, bed, keys, 0)} {
		caughtUp(t, ring)
		opens(ring, two, ErrRevoked)
		opens(ring, before, ErrRevoked)
		if n := unwrapped(ring); n != 0 {
			t.Errorf("%d keys are unwrapped", n)
		}
	}
	if !who("acme", "r2") {
		t.Error("the account's records are not shredded")
	}
	for _, i := range a.List() {
		if i.Kind != event.KeyEventKindRevoked {
			t.Errorf("listed as %s: %+v", i.Kind, i)
		}
	}
}

// A database carries out what every holder knows of, in order of the positions.
func TestSweepingFollowsTheShredding(t *testing.T) {
	bed := kafkatest.New(t, schemas.KeysEvents)
	keys, _ := generate(t)
	const lease = 2 * time.Second
	a := openHolder(t, bed, keys, "a", lease, nil)
	one := record(t, a, "acme", "r", "v")
	if pending, _, whole := a.Unswept("v1"); len(pending) != 0 || !whole {
		t.Errorf("%v, %v", pending, whole)
	}
	// Revoked, but nobody has said that all holders know.
	e, _ := a.entry(one.KeyID)
	if err := a.revoke(t.Context(), []*entry{e}, "x"); err != nil {
		t.Fatal(err)
	}
	if pending, _, whole := a.Unswept("v1"); len(pending) != 0 || whole {
		t.Errorf("a revocation that holders may not know: %v, %v", pending, whole)
	}
	time.Sleep(lease + lease/10)
	if pending, _, whole := a.Unswept("v1"); len(pending) != 1 || !whole || pending[0].KeyID != one.KeyID {
		t.Errorf("after the lease: %v, %v", pending, whole)
	}
	record(t, a, "other", "r", "v")
	receipt, err := a.Shred(t.Context(), Shred{Account: "other"})
	if err != nil {
		t.Fatal(err)
	}
	pending, positions, whole := a.Unswept("v1")
	if len(pending) != 2 || !whole || a.IsSwept("v1", receipt) {
		t.Errorf("after the receipt: %v, %v", pending, whole)
	}
	if err := a.Swept(t.Context(), "v1", positions); err != nil {
		t.Fatal(err)
	}
	if pending, _, _ := a.Unswept("v1"); len(pending) != 0 || !a.IsSwept("v1", receipt) {
		t.Errorf("swept and still pending: %v", pending)
	}
	if pending, _, _ := a.Unswept("v2"); len(pending) != 2 || a.IsSwept("v2", receipt) {
		t.Errorf("another database: %v", pending)
	}
}
