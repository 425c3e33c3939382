package seal

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"databus/pkg/internal/kafkatest"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

func openKeyring(t testing.TB, bed *kafkatest.Bed, keys *Keys, cache int) *Keyring {
	t.Helper()
	k, err := OpenKeyring(t.Context(), Options{Kafka: bed.Opts, Codec: bed.Codec, Keys: keys, Cache: cache})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	return k
}

// Six instances need the first key of the same accounts at the same moment: each account must end up with one sealing
// key, whoever asks, also an instance that starts later.
func TestInstancesThatCreateAtOnceAgree(t *testing.T) {
	bed := kafkatest.New(t, schemas.KeysEvents)
	keys, _ := generate(t)
	const instances, accounts = 6, 10
	rings := make([]*Keyring, instances)
	for i := range rings {
		rings[i] = openKeyring(t, bed, keys, 0)
		if err := rings[i].Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	var ids [instances][accounts]string
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i, ring := range rings {
		for a := range accounts {
			wg.Go(func() {
				<-start
				key, err := ring.Sealer(t.Context(), fmt.Sprint("account-", a), "r")
				if err != nil {
					t.Error(err)
					return
				}
				ids[i][a] = key.ID()
			})
		}
	}
	close(start)
	wg.Wait()
	late := openKeyring(t, bed, keys, 0)
	for a := range accounts {
		key, err := late.Sealer(t.Context(), fmt.Sprint("account-", a), "r")
		if err != nil {
			t.Fatal(err)
		}
		for i := range rings {
			if ids[i][a] != key.ID() {
				t.Errorf("account %d: instance %d seals with %s, a later one with %s", a, i, ids[i][a], key.ID())
			}
		}
	}
}

func record(t testing.TB, k *Keyring, account, recordKey, payload string) *event.DatabusRecord {
	t.Helper()
	key, err := k.Sealer(t.Context(), account, recordKey)
	if err != nil {
		t.Fatal(err)
	}
	rec := &event.DatabusRecord{Account: account, RecordKey: recordKey, KeyID: key.ID(), PayloadSchema: []byte("12345678")}
	rec.Sealed = key.Seal(nil, recordKey, rec.PayloadSchema, []byte(payload))
	return rec
}

func TestRotateAndShredAnAccount(t *testing.T) {
	bed := kafkatest.New(t, schemas.KeysEvents)
	keys, _ := generate(t)
	a, b := openKeyring(t, bed, keys, 0), openKeyring(t, bed, keys, 0)
	first := record(t, a, "acme", "r1", "one")
	other := record(t, a, "other", "r1", "other")
	// b has not asked for this key yet, and may not have read its event: it waits for it.
	if got, err := b.Open(t.Context(), nil, first); err != nil || string(got) != "one" {
		t.Fatalf("%q, %v", got, err)
	}
	newID, err := b.Rotate(t.Context(), "acme", SameScope)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.follower.CaughtUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	second := record(t, a, "acme", "r2", "two")
	if second.KeyID != newID || newID == first.KeyID {
		t.Fatalf("sealed with %s after rotation to %s", second.KeyID, newID)
	}
	if got, err := a.Open(t.Context(), nil, first); err != nil || string(got) != "one" {
		t.Fatalf("a rotated key must open: %q, %v", got, err)
	}
	moved := *other
	moved.Account = "acme"
	if _, err := a.Open(t.Context(), nil, &moved); !errors.Is(err, ErrTampered) {
		t.Fatalf("another account's record: %v", err)
	}

	receipt, err := a.Shred(t.Context(), Shred{Account: "acme", Backups: 720 * time.Hour})
	if err != nil || receipt.Keys != 2 || receipt.BackupsUntil.Sub(receipt.LogUntil) != 720*time.Hour || receipt.LogUntil.Sub(receipt.At) < 24*time.Hour {
		t.Fatalf("%+v, %v", receipt, err)
	}
	if _, err := a.Rotate(t.Context(), "acme", SameScope); !errors.Is(err, ErrRevoked) {
		t.Errorf("a shredded account got another key: %v", err)
	}
	again, err := a.Shred(t.Context(), Shred{Account: "acme"})
	if err != nil || again.Keys != 0 {
		t.Errorf("shredded again: %+v, %v", again, err)
	}
	if _, err := a.Shred(t.Context(), Shred{Account: "nobody"}); !errors.Is(err, ErrUnknownKey) {
		t.Errorf("shredding an account without keys: %v", err)
	}
	if err := b.follower.CaughtUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, ring := range map[string]*Keyring{"revoker": a, "follower": b, "later": openKeyring(t, bed, keys, 0)} {
		for _, rec := range []*event.DatabusRecord{first, second} {
			if _, err := ring.Open(t.Context(), nil, rec); !errors.Is(err, ErrRevoked) {
				t.Errorf("%s opens with a revoked key: %v", name, err)
			}
		}
		if _, err := ring.Sealer(t.Context(), "acme", "r9"); !errors.Is(err, ErrRevoked) {
			t.Errorf("%s seals for an account whose keys are revoked: %v", name, err)
		}
		if got, err := ring.Open(t.Context(), nil, other); err != nil || string(got) != "other" {
			t.Errorf("%s: another account's record: %q, %v", name, got, err)
		}
	}
	// An event that comes late cannot bring a revoked key back.
	wrapped, err := keys.wrap(t.Context(), first.KeyID, make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	kafkatest.Produce(t, bed, schemas.KeysEvents, first.KeyID, &event.KeyEvent{KeyID: first.KeyID, Account: "acme",
		Kind: event.KeyEventKindCreated, WrappedKey: wrapped, KekID: keys.kekID, At: time.Now()})
	if err := a.follower.CaughtUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Opener(t.Context(), first.KeyID); !errors.Is(err, ErrRevoked) {
		t.Errorf("a revoked key came back: %v", err)
	}
}

func TestUnknownWrongAndBrokenKeys(t *testing.T) {
	bed := kafkatest.New(t, schemas.KeysEvents)
	keys, _ := generate(t)
	ring := openKeyring(t, bed, keys, 0)
	if _, err := ring.Opener(t.Context(), "acme/0000000000000000"); !errors.Is(err, ErrUnknownKey) {
		t.Errorf("an unknown key: %v", err)
	}
	if _, err := ring.Sealer(t.Context(), "a/b", "r"); err == nil {
		t.Error("an invalid account got a key")
	}
	bed.ProduceBytes(t, schemas.KeysEvents, "acme/1", []byte("garbage"))
	rec := record(t, ring, "acme", "r", "v") // garbage does not stop the follower
	otherKeys, err := Generate(filepath.Join(t.TempDir(), "other.json"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openKeyring(t, bed, otherKeys, 0).Open(t.Context(), nil, rec); !errors.Is(err, ErrWrongKEK) {
		t.Errorf("with another key file: %v", err)
	}
}

func TestCacheIsBounded(t *testing.T) {
	bed := kafkatest.New(t, schemas.KeysEvents)
	keys, _ := generate(t)
	ring := openKeyring(t, bed, keys, 10)
	var recs []*event.DatabusRecord
	for i := range 50 {
		recs = append(recs, record(t, ring, fmt.Sprint("account-", i), "r", fmt.Sprint(i)))
	}
	for round := range 3 {
		for i, rec := range recs {
			if got, err := ring.Open(t.Context(), nil, rec); err != nil || string(got) != fmt.Sprint(i) {
				t.Fatalf("round %d, record %d: %q, %v", round, i, got, err)
			}
			open := 0
			for _, e := range ring.byID {
				if e.unwrapped.Load() != nil {
					open++
				}
			}
			if open > 10 || open != ring.cache.n || len(ring.cache.open) > 10 {
				t.Fatalf("%d unwrapped keys (counted %d), the limit is 10", open, ring.cache.n)
			}
		}
	}
}

// A keyring whose registry does not answer waits for it, is not ready meanwhile, and can be closed.
func TestRegistryThatIsAway(t *testing.T) {
	bed := kafkatest.New(t, schemas.KeysEvents)
	keys, _ := generate(t)
	rec := record(t, openKeyring(t, bed, keys, 0), "acme", "r", "v")
	bed.RegistryDown.Store(true)
	cold := codec.New(bed.Registry, codec.Options{})
	ring, err := OpenKeyring(t.Context(), Options{Kafka: bed.Opts, Codec: cold, Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := ring.Open(short, nil, rec); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("opened, or given up, without the registry: %v", err)
	}
	ring.Close()

	ring, err = OpenKeyring(t.Context(), Options{Kafka: bed.Opts, Codec: cold, Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	defer ring.Close()
	bed.RegistryDown.Store(false)
	if got, err := ring.Open(t.Context(), nil, rec); err != nil || string(got) != "v" {
		t.Errorf("after the registry came back: %q, %v", got, err)
	}
}
