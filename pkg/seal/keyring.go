package seal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
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
	// Keys may be nil for who only lists and shreds.
	Keys *Keys
	// Cache is how many unwrapped data keys are kept at most; 0 means 4096.
	Cache int
	// Holder is the stable name of this process, 1 to 200 characters of [A-Za-z0-9._-], under which it says that it has
	// dropped revoked keys. A process that is gone soon, such as a command, has none; the lease holds for it as well.
	Holder string
	// Lease is the package's Lease unless a test sets it.
	Lease time.Duration
	Log   *slog.Logger
}

// Keyring follows keys.events and holds every account's data keys, wrapped; the ones in use also unwrapped.
//
// Memory: about 0.7 KB for each key on keys.events, records' own included, and 0.9 KB more for each unwrapped one, of which
// there are at most Options.Cache (3.6 MB by default). `make bench-seal` measures both.
type Keyring struct {
	keys     *Keys
	serde    *codec.Serde[event.KeyEvent]
	follower *follow.Follower
	producer *kgo.Client
	log      *slog.Logger
	cache    cache
	lease    lease
	// revocations counts events that revoke keys, or say that everybody knows.
	revocations atomic.Int64
	cancel      context.CancelFunc

	mu       sync.RWMutex
	byID     map[string]*entry
	accounts map[string]*account
	shreds   shreds

	creating [64]sync.Mutex // by account or record: one creation of its key at a time in this process
}

// entry is a data key as its newest event has it. It is replaced, never changed, but for what is unwrapped.
type entry struct {
	id, account string
	record      string // record key; "" for a key of the account
	parent      string // id of the account's key that wraps it; "" for a key of the account
	perRecord   bool   // wraps records' keys and seals no records
	offset      int64  // of the event, in the account's partition
	kind        event.KeyEventKind
	wrapped     []byte
	kekID       string
	at          time.Time
	seen        time.Time // when this process handled the event

	unwrapping sync.Mutex // so that a key-encryption key's service is asked once
	unwrapped  atomic.Pointer[DataKey]
	recently   atomic.Bool
}

func (e *entry) revoked() bool { return e.kind == event.KeyEventKindRevoked }

// account lists an account's keys by the offset of their newest event, and those of its records by record key.
type account struct {
	keys    []*entry
	records map[string][]*entry
}

// list is where an entry belongs.
func (a *account) list(e *entry) []*entry {
	if e.record == "" {
		return a.keys
	}
	return a.records[e.record]
}

func (a *account) set(e *entry, list []*entry) {
	switch {
	case e.record == "":
		a.keys = list
	case len(list) == 0:
		delete(a.records, e.record)
	default:
		if a.records == nil {
			a.records = map[string][]*entry{}
		}
		a.records[e.record] = list
	}
}

// OpenKeyring starts to follow keys.events. It returns before all keys are known: see Ready.
func OpenKeyring(ctx context.Context, o Options) (*Keyring, error) {
	if strings.Trim(o.Holder, holderChars) != "" || len(o.Holder) > 200 {
		return nil, fmt.Errorf("opening keyring: %q is no name of a holder", o.Holder)
	}
	k := &Keyring{
		keys: o.Keys, serde: codec.For[event.KeyEvent](o.Codec, schemas.KeysEvents), log: o.Log,
		byID: map[string]*entry{}, accounts: map[string]*account{}, shreds: newShreds(),
	}
	k.cache.limit = cmp.Or(o.Cache, 4096)
	k.lease.init(o.Holder, cmp.Or(o.Lease, Lease))
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
	go k.maintain(ctx)
	return k, nil
}

// Ready waits until every key event that existed when the keyring was opened is known.
func (k *Keyring) Ready(ctx context.Context) error { return k.follower.Ready(ctx) }

// IsReady is Ready without waiting.
func (k *Keyring) IsReady() bool { return k.follower.IsReady() }

// CaughtUp waits until every key event that is acknowledged now is known.
func (k *Keyring) CaughtUp(ctx context.Context) error { return k.confirm(ctx) }

// Positions are the next offsets of keys.events, by partition: what is before them is known.
func (k *Keyring) Positions() []int64 {
	at := k.follower.Positions()
	list := make([]int64, k.follower.Partitions())
	for p := range list {
		list[p] = at[int32(p)]
	}
	return list
}

// Close stops following and takes the holder's name back.
func (k *Keyring) Close() {
	k.cancel()
	<-k.lease.done
	k.resign()
	k.follower.Close()
	k.producer.Close()
	k.cache.clear()
}

func (k *Keyring) handle(ctx context.Context, rec *kgo.Record) {
	if rec.Value == nil {
		k.drop(string(rec.Key))
		return
	}
	ev, ok := decode(ctx, k.serde, rec, k.log)
	if !ok {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	switch ev.Kind {
	case event.KeyEventKindCreated, event.KeyEventKindRotated, event.KeyEventKindRevoked:
		k.put(&entry{id: ev.KeyID, account: ev.Account, record: ev.RecordKey, parent: ev.ParentKeyID, perRecord: ev.PerRecord,
			offset: rec.Offset, kind: ev.Kind, wrapped: ev.WrappedKey, kekID: ev.KekID, at: ev.At, seen: time.Now()})
	default:
		k.shreds.put(ev, rec.Offset)
	}
	switch ev.Kind {
	case event.KeyEventKindShred:
		k.lease.wake()
	case event.KeyEventKindRevoked, event.KeyEventKindShredded:
		k.revocations.Add(1)
	}
}

// decode waits for the registry, or for a schema that it does not know yet: going on without a key would turn its records
// into dead ones. False for what can never be read, and when ctx is done.
func decode(ctx context.Context, serde *codec.Serde[event.KeyEvent], rec *kgo.Record, log *slog.Logger) (*event.KeyEvent, bool) {
	ev := new(event.KeyEvent)
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := serde.Decode(ctx, rec.Value, ev)
		if err == nil {
			break
		}
		log.Error("key event is not readable", "topic", rec.Topic, "partition", rec.Partition, "offset", rec.Offset,
			"retry", !codec.IsPoison(err), "error", err)
		if codec.IsPoison(err) {
			return nil, false
		}
		select {
		case <-ctx.Done():
			return nil, false
		case <-time.After(wait):
		}
	}
	if ev.KeyID != string(rec.Key) {
		log.Error("key event names another key than its record key", "partition", rec.Partition, "offset", rec.Offset)
		return nil, false
	}
	return ev, true
}

// put replaces what is known about a key; the lock is held. Revoked is final: a later event cannot bring the key back.
func (k *Keyring) put(e *entry) {
	old := k.byID[e.id]
	if old != nil && old.revoked() {
		return
	}
	if old != nil { // interned: a key has several events
		e.id, e.account, e.record, e.parent = old.id, old.account, old.record, old.parent
	}
	a := k.accounts[e.account]
	if a == nil {
		a = &account{}
		k.accounts[e.account] = a
	}
	if e.revoked() {
		e.wrapped = nil
		if e.record == "" { // what it wraps is gone with it
			for _, list := range a.records {
				for _, child := range list {
					if child.parent == e.id {
						k.cache.forget(child)
					}
				}
			}
		}
	}
	k.remove(old)
	k.byID[e.id] = e
	list := append(slices.Clip(a.list(e)), e)
	slices.SortFunc(list, func(x, y *entry) int { return cmp.Compare(x.offset, y.offset) })
	a.set(e, list)
}

func (k *Keyring) drop(id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.remove(k.byID[id])
	if k.shreds.drop(id) == k.lease.holder && k.lease.holder != "" {
		k.lease.rejoin()
	}
}

// remove forgets an entry; the lock is held.
func (k *Keyring) remove(e *entry) {
	if e == nil {
		return
	}
	delete(k.byID, e.id)
	if a := k.accounts[e.account]; a != nil {
		a.set(e, slices.DeleteFunc(slices.Clone(a.list(e)), func(x *entry) bool { return x == e }))
	}
	k.cache.forget(e)
}

// entry looks a key up, and whether it is revoked or its parent is.
func (k *Keyring) entry(id string) (e *entry, revoked bool) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if e = k.byID[id]; e == nil {
		return nil, false
	}
	return e, k.dead(e)
}

// dead says whether a key is revoked, itself or by its parent; the lock is held. A key's parent is always known before it.
func (k *Keyring) dead(e *entry) bool {
	if e.revoked() || e.parent == "" {
		return e.revoked()
	}
	parent := k.byID[e.parent]
	return parent != nil && parent.revoked()
}

// find is entry for a key of which something has been seen. A key's event is always older than what the key sealed, so a key
// that is unknown after catching up with keys.events does not exist: ErrUnknownKey.
func (k *Keyring) find(ctx context.Context, id string) (*entry, bool, error) {
	if err := k.fresh(ctx); err != nil {
		return nil, false, err
	}
	e, revoked := k.entry(id)
	if e == nil {
		if err := k.confirm(ctx); err != nil {
			return nil, false, fmt.Errorf("looking for key %s: %w", id, err)
		}
		if e, revoked = k.entry(id); e == nil {
			return nil, false, fmt.Errorf("looking for key %s: %w", id, ErrUnknownKey)
		}
	}
	return e, revoked, nil
}

// Opener returns the key with an id. Errors: ErrUnknownKey, ErrRevoked, ErrWrongKEK, ErrKEKUnavailable, ErrStale.
func (k *Keyring) Opener(ctx context.Context, keyID string) (*DataKey, error) {
	e, revoked, err := k.find(ctx, keyID)
	if err != nil {
		return nil, err
	}
	if revoked {
		return nil, fmt.Errorf("opening key %s: %w", keyID, ErrRevoked)
	}
	return k.unwrap(ctx, e)
}

// Revoked says whether a key that something was sealed with is revoked. Errors: ErrUnknownKey, ErrStale.
func (k *Keyring) Revoked(ctx context.Context, keyID string) (bool, error) {
	_, revoked, err := k.find(ctx, keyID)
	return revoked, err
}

// Open appends the payload that a record seals to dst. The record's account is checked: it is part of what the tag
// covers. It allocates nothing when dst has room and the key is unwrapped.
func (k *Keyring) Open(ctx context.Context, dst []byte, rec *event.DatabusRecord) ([]byte, error) {
	key, err := k.Opener(ctx, rec.KeyID)
	if err != nil {
		return dst, err
	}
	if key.account != rec.Account || key.record != "" && key.record != rec.RecordKey {
		return dst, ErrTampered
	}
	return key.Open(dst, rec.RecordKey, rec.PayloadSchema, rec.Sealed)
}

// publish produces an event and waits until this keyring has read it back, so that every event before it is known too.
func (k *Keyring) publish(ctx context.Context, events ...*event.KeyEvent) error {
	recs := make([]*kgo.Record, len(events))
	for i, ev := range events {
		if ev.Holders == nil {
			ev.Holders = []string{}
		}
		if ev.Expired == nil {
			ev.Expired = []string{}
		}
		if ev.Remaining == nil {
			ev.Remaining = []string{}
		}
		if ev.Positions == nil {
			ev.Positions = []int64{}
		}
		for _, at := range []*time.Time{&ev.LogUntil, &ev.BackupsUntil} {
			if at.IsZero() {
				*at = time.Unix(0, 0).UTC()
			}
		}
		ev.At = time.Now().UTC()
		value, err := k.serde.Encode(ctx, ev)
		if err != nil {
			return err
		}
		recs[i] = k.record(ev.KeyID, value)
	}
	return k.produce(ctx, recs...)
}

func (k *Keyring) record(key string, value []byte) *kgo.Record {
	rec := &kgo.Record{Topic: schemas.KeysEvents, Key: []byte(key), Value: value}
	rec.Partition = schemas.Partition(rec.Topic, rec.Key, k.follower.Partitions())
	return rec
}

// send is ProduceSync that returns with ctx in any case. Records that are under way cannot be called back, so the client
// waits for them as long as the brokers are away; those may still arrive. Closing the producer gives them up.
func (k *Keyring) send(ctx context.Context, recs ...*kgo.Record) (kgo.ProduceResults, error) {
	sent := make(chan kgo.ProduceResults, 1)
	go func() { sent <- k.producer.ProduceSync(ctx, recs...) }()
	select {
	case res := <-sent:
		return res, res.FirstErr()
	case <-ctx.Done():
		return nil, fmt.Errorf("producing to %s: %w", schemas.KeysEvents, ctx.Err())
	}
}

func (k *Keyring) produce(ctx context.Context, recs ...*kgo.Record) error {
	res, err := k.send(ctx, recs...)
	if err != nil {
		return err
	}
	for _, r := range res {
		if err := k.follower.WaitFor(ctx, r.Record.Partition, r.Record.Offset); err != nil {
			return err
		}
	}
	return nil
}

// Info describes a data key without the key.
type Info struct {
	KeyID, Account string
	// RecordKey is set for a record's own key; WrappedBy is the key-encryption key or the account's key.
	RecordKey, WrappedBy string
	// PerRecord: it wraps a key for each record and seals none.
	PerRecord bool
	// Kind is REVOKED also where the key that wraps it is.
	Kind event.KeyEventKind
	// At is when that happened.
	At time.Time
}

// List returns all known keys, by account; an account's own by the offset of their newest event, then its records' by
// record key.
func (k *Keyring) List() []Info {
	k.mu.RLock()
	defer k.mu.RUnlock()
	infos := make([]Info, 0, len(k.byID))
	for _, e := range k.byID {
		i := Info{KeyID: e.id, Account: e.account, RecordKey: e.record, WrappedBy: cmp.Or(e.kekID, e.parent), PerRecord: e.perRecord, Kind: e.kind, At: e.at}
		if k.dead(e) {
			i.Kind = event.KeyEventKindRevoked
		}
		infos = append(infos, i)
	}
	slices.SortFunc(infos, func(x, y Info) int {
		return cmp.Or(cmp.Compare(x.Account, y.Account), cmp.Compare(x.RecordKey, y.RecordKey), cmp.Compare(k.byID[x.KeyID].offset, k.byID[y.KeyID].offset))
	})
	return infos
}

var errInvalidAccount = errors.New("the account id is not valid")
