package seal

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/follow"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

// Options of a Keyring.
type Options struct {
	// Kafka says where the brokers are.
	Kafka []kgo.Opt
	Codec *codec.Codec
	Keys  *Keys
	// Cache is how many unwrapped data keys are kept at most; 0 means 4096.
	Cache int
	Log   *slog.Logger
}

// Keyring follows keys.events and holds every account's data keys, wrapped; the ones in use also unwrapped.
type Keyring struct {
	keys     *Keys
	serde    *codec.Serde[event.KeyEvent]
	follower *follow.Follower
	producer *kgo.Client
	log      *slog.Logger
	limit    int
	cancel   context.CancelFunc

	mu       sync.RWMutex
	byID     map[string]*entry
	accounts map[string]*account

	cacheMu sync.Mutex // guards the number of open entries
	open    int

	creating sync.Mutex // one creation at a time in this process
}

// entry is a data key as its newest event has it.
type entry struct {
	id, account string
	offset      int64 // of the event, in the account's partition
	kind        event.KeyEventKind
	wrapped     []byte
	kekID       string
	unwrapped   atomic.Pointer[DataKey]
	recently    atomic.Bool
}

// account lists an account's keys by the offset of their newest event.
type account struct{ keys []*entry }

// OpenKeyring starts to follow keys.events. It returns before all keys are known: see Ready.
func OpenKeyring(ctx context.Context, o Options) (*Keyring, error) {
	k := &Keyring{
		keys: o.Keys, serde: codec.For[event.KeyEvent](o.Codec, schemas.KeysEvents), log: o.Log, limit: cmp.Or(o.Cache, 4096),
		byID: map[string]*entry{}, accounts: map[string]*account{},
	}
	if k.log == nil {
		k.log = slog.New(slog.DiscardHandler)
	}
	var err error
	k.producer, err = kgo.NewClient(append(append([]kgo.Opt{}, o.Kafka...),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		// The partition is computed here, so that the order of an account's keys doesn't depend on the options.
		kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		return nil, fmt.Errorf("opening keyring: %w", err)
	}
	// A handler that waits for the registry ends with the keyring, not only with the caller's context.
	ctx, k.cancel = context.WithCancel(ctx)
	k.follower, err = follow.Topic(ctx, o.Kafka, schemas.KeysEvents, func(rec *kgo.Record) { k.handle(ctx, rec) })
	if err != nil {
		k.cancel()
		k.producer.Close()
		return nil, fmt.Errorf("opening keyring: %w", err)
	}
	return k, nil
}

// Ready waits until every key event that existed when the keyring was opened is known.
func (k *Keyring) Ready(ctx context.Context) error { return k.follower.Ready(ctx) }

// IsReady is Ready without waiting.
func (k *Keyring) IsReady() bool { return k.follower.IsReady() }

// Close stops following.
func (k *Keyring) Close() {
	k.cancel()
	k.follower.Close()
	k.producer.Close()
}

func (k *Keyring) handle(ctx context.Context, rec *kgo.Record) {
	if rec.Value == nil {
		k.drop(string(rec.Key))
		return
	}
	var ev event.KeyEvent
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := k.serde.Decode(ctx, rec.Value, &ev)
		if err == nil {
			break
		}
		k.log.Error("key event is not readable", "topic", rec.Topic, "partition", rec.Partition, "offset", rec.Offset,
			"retry", !codec.IsPoison(err), "error", err)
		if codec.IsPoison(err) {
			return
		}
		// Registry or schema missing: going on without the key would turn its records into dead ones.
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
	if ev.KeyID != string(rec.Key) {
		k.log.Error("key event names another key than its record key", "partition", rec.Partition, "offset", rec.Offset)
		return
	}
	switch ev.Kind {
	case event.KeyEventKindCreated, event.KeyEventKindRotated, event.KeyEventKindRevoked:
		k.put(&entry{id: ev.KeyID, account: ev.Account, offset: rec.Offset, kind: ev.Kind, wrapped: ev.WrappedKey, kekID: ev.KekID})
	case event.KeyEventKindReceipt:
		// Says what another holder did; receipts have keys of their own.
	}
}

// put replaces what is known about a key. Revoked is final: a later event cannot bring the key back.
func (k *Keyring) put(e *entry) {
	k.mu.Lock()
	defer k.mu.Unlock()
	old := k.byID[e.id]
	if old != nil && old.kind == event.KeyEventKindRevoked {
		return
	}
	if e.kind == event.KeyEventKindRevoked {
		e.wrapped = nil
	}
	k.remove(old)
	k.byID[e.id] = e
	a := k.accounts[e.account]
	if a == nil {
		a = &account{}
		k.accounts[e.account] = a
	}
	a.keys = append(a.keys, e)
	slices.SortFunc(a.keys, func(x, y *entry) int { return cmp.Compare(x.offset, y.offset) })
}

func (k *Keyring) drop(id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.remove(k.byID[id])
}

// remove forgets an entry; the lock is held.
func (k *Keyring) remove(e *entry) {
	if e == nil {
		return
	}
	delete(k.byID, e.id)
	if a := k.accounts[e.account]; a != nil {
		a.keys = slices.DeleteFunc(a.keys, func(x *entry) bool { return x == e })
	}
	if e.unwrapped.Swap(nil) != nil {
		k.cacheMu.Lock()
		k.open--
		k.cacheMu.Unlock()
	}
}

// Sealer returns the key that seals an account's records: the first of its keys, by offset, that is neither rotated nor
// revoked; all instances agree on it. The account's first key is created here. ErrRevoked: all its keys are revoked.
func (k *Keyring) Sealer(ctx context.Context, accountID string) (*DataKey, error) {
	if !schemas.ValidAccount(accountID) {
		return nil, errors.New("choosing a data key: the account id is not valid")
	}
	if !k.follower.IsReady() {
		if err := k.follower.Ready(ctx); err != nil {
			return nil, fmt.Errorf("choosing a data key: %w", err)
		}
	}
	if key, err := k.sealer(accountID); key != nil || err != nil {
		return key, err
	}
	k.creating.Lock()
	defer k.creating.Unlock()
	if key, err := k.sealer(accountID); key != nil || err != nil {
		return key, err
	}
	// Another instance may have created one a moment ago: look before adding a second.
	if err := k.follower.CaughtUp(ctx); err != nil {
		return nil, fmt.Errorf("choosing a data key: %w", err)
	}
	if key, err := k.sealer(accountID); key != nil || err != nil {
		return key, err
	}
	if err := k.create(ctx, accountID); err != nil {
		return nil, fmt.Errorf("creating a data key for account %s: %w", accountID, err)
	}
	key, err := k.sealer(accountID)
	if key == nil && err == nil {
		err = fmt.Errorf("creating a data key for account %s: the event was produced but not read", accountID)
	}
	return key, err
}

// sealer is the choice among the known keys; nil without error when the account has none.
func (k *Keyring) sealer(accountID string) (*DataKey, error) {
	k.mu.RLock()
	var first *entry
	revoked := false
	if a := k.accounts[accountID]; a != nil {
		for _, e := range a.keys {
			if e.kind == event.KeyEventKindCreated {
				first = e
				break
			}
			revoked = revoked || e.kind == event.KeyEventKindRevoked
		}
	}
	k.mu.RUnlock()
	switch {
	case first != nil:
		return k.unwrap(first)
	case revoked:
		return nil, fmt.Errorf("choosing a data key for account %s: %w", accountID, ErrRevoked)
	}
	return nil, nil
}

// create produces a new key and waits until this keyring has read it back, so that every key before it is known too.
func (k *Keyring) create(ctx context.Context, accountID string) error {
	var part [8]byte
	var key [32]byte
	rand.Read(part[:])
	rand.Read(key[:])
	id := accountID + "/" + hex.EncodeToString(part[:])
	wrapped, err := k.keys.wrap(id, key[:])
	if err != nil {
		return err
	}
	return k.publish(ctx, &event.KeyEvent{
		KeyID: id, Account: accountID, Kind: event.KeyEventKindCreated, WrappedKey: wrapped, KekID: k.keys.kekID, At: time.Now().UTC(),
	})
}

func (k *Keyring) publish(ctx context.Context, ev *event.KeyEvent) error {
	value, err := k.serde.Encode(ctx, ev)
	if err != nil {
		return err
	}
	rec := &kgo.Record{Topic: schemas.KeysEvents, Key: []byte(ev.KeyID), Value: value}
	rec.Partition = schemas.Partition(rec.Topic, rec.Key, k.follower.Partitions())
	res := k.producer.ProduceSync(ctx, rec)
	if err := res.FirstErr(); err != nil {
		return err
	}
	return k.follower.WaitFor(ctx, res[0].Record.Partition, res[0].Record.Offset)
}

// Rotate makes an account seal with a new key. Older keys still open.
func (k *Keyring) Rotate(ctx context.Context, accountID string) (newKeyID string, err error) {
	if err := k.follower.CaughtUp(ctx); err != nil {
		return "", fmt.Errorf("rotating the key of account %s: %w", accountID, err)
	}
	k.creating.Lock()
	defer k.creating.Unlock()
	var live []*entry
	k.mu.RLock()
	if a := k.accounts[accountID]; a != nil {
		for _, e := range a.keys {
			if e.kind == event.KeyEventKindCreated {
				live = append(live, e)
			}
		}
	}
	k.mu.RUnlock()
	// The new key first: at no time is the account without one.
	err = k.create(ctx, accountID)
	for _, e := range live {
		if err == nil {
			err = k.publish(ctx, &event.KeyEvent{
				KeyID: e.id, Account: accountID, Kind: event.KeyEventKindRotated, WrappedKey: e.wrapped, KekID: e.kekID, At: time.Now().UTC(),
			})
		}
	}
	if err != nil {
		return "", fmt.Errorf("rotating the key of account %s: %w", accountID, err)
	}
	key, err := k.sealer(accountID)
	if err != nil {
		return "", err
	}
	return key.id, nil
}

// Revoke makes a data key unusable everywhere, for good: what it sealed cannot be read any more.
func (k *Keyring) Revoke(ctx context.Context, keyID string) error {
	if err := k.follower.CaughtUp(ctx); err != nil {
		return fmt.Errorf("revoking key %s: %w", keyID, err)
	}
	k.mu.RLock()
	e := k.byID[keyID]
	k.mu.RUnlock()
	if e == nil {
		return fmt.Errorf("revoking key %s: %w", keyID, ErrUnknownKey)
	}
	err := k.publish(ctx, &event.KeyEvent{KeyID: keyID, Account: e.account, Kind: event.KeyEventKindRevoked, At: time.Now().UTC()})
	if err != nil {
		return fmt.Errorf("revoking key %s: %w", keyID, err)
	}
	return nil
}

// Opener returns the key with an id. A key's event is always older than what the key sealed, so a key that is unknown
// after catching up with keys.events does not exist: ErrUnknownKey. Errors also: ErrRevoked, ErrWrongKEK.
func (k *Keyring) Opener(ctx context.Context, keyID string) (*DataKey, error) {
	k.mu.RLock()
	e := k.byID[keyID]
	k.mu.RUnlock()
	if e == nil {
		if err := k.follower.CaughtUp(ctx); err != nil {
			return nil, fmt.Errorf("looking for key %s: %w", keyID, err)
		}
		k.mu.RLock()
		e = k.byID[keyID]
		k.mu.RUnlock()
		if e == nil {
			return nil, fmt.Errorf("looking for key %s: %w", keyID, ErrUnknownKey)
		}
	}
	return k.unwrap(e)
}

// Open appends the payload that a record seals to dst. The record's account is checked: it is part of what the tag
// covers.
func (k *Keyring) Open(ctx context.Context, dst []byte, rec *event.DatabusRecord) ([]byte, error) {
	key, err := k.Opener(ctx, rec.KeyID)
	if err != nil {
		return dst, err
	}
	if key.account != rec.Account {
		return dst, ErrTampered
	}
	return key.Open(dst, rec.RecordKey, rec.PayloadSchema, rec.Sealed)
}

func (k *Keyring) unwrap(e *entry) (*DataKey, error) {
	if e.kind == event.KeyEventKindRevoked {
		return nil, fmt.Errorf("opening key %s: %w", e.id, ErrRevoked)
	}
	if key := e.unwrapped.Load(); key != nil {
		if !e.recently.Load() { // spares the other CPU's cache line
			e.recently.Store(true)
		}
		return key, nil
	}
	raw, err := k.keys.unwrap(e.id, e.kekID, e.wrapped)
	if err != nil {
		return nil, err
	}
	key, err := newDataKey(e.id, e.account, raw)
	clear(raw)
	if err != nil {
		return nil, err
	}
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.byID[e.id] != e { // revoked or replaced meanwhile: don't put it back into memory
		return key, nil
	}
	k.cacheMu.Lock()
	defer k.cacheMu.Unlock()
	if e.unwrapped.CompareAndSwap(nil, key) {
		e.recently.Store(true)
		k.open++
		if k.open > k.limit {
			k.evict(e)
		}
	}
	return key, nil
}

// evict closes unwrapped keys that were not used since the last round, and any others as far as needed, until a tenth of
// the cache is free, so that rounds are rare. Both locks are held (the first for reading).
func (k *Keyring) evict(keep *entry) {
	goal := k.limit - k.limit/10
	for range 2 {
		for _, e := range k.byID {
			if k.open <= goal {
				return
			}
			if e == keep || e.unwrapped.Load() == nil || e.recently.Swap(false) {
				continue
			}
			e.unwrapped.Store(nil)
			k.open--
		}
	}
}

// Info describes a data key without the key.
type Info struct {
	KeyID, Account, KEKID string
	Kind                  event.KeyEventKind
}

// List returns all known keys, by account and offset.
func (k *Keyring) List() []Info {
	k.mu.RLock()
	defer k.mu.RUnlock()
	infos := []Info{}
	for _, a := range k.accounts {
		for _, e := range a.keys {
			infos = append(infos, Info{KeyID: e.id, Account: e.account, KEKID: e.kekID, Kind: e.kind})
		}
	}
	slices.SortStableFunc(infos, func(x, y Info) int { return cmp.Compare(x.Account, y.Account) })
	return infos
}
