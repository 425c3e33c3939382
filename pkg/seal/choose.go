package seal

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"hash/maphash"
	"sync"

	"databus/schemas"
	"databus/schemas/event"
)

// Sealer returns the key that seals a record. All instances agree on an account's: the first, by offset, of its keys that
// are neither rotated nor revoked. Where that one says so, the record has a key of its own. A key that is missing is
// created here. ErrRevoked: all keys of the account are revoked, or one of the record's.
func (k *Keyring) Sealer(ctx context.Context, accountID, recordKey string) (*DataKey, error) {
	if !schemas.ValidAccount(accountID) {
		return nil, fmt.Errorf("choosing a data key: %w", errInvalidAccount)
	}
	if err := k.fresh(ctx); err != nil {
		return nil, fmt.Errorf("choosing a data key: %w", err)
	}
	for range 3 { // an account's key, then the record's
		e, missing, err := k.choose(accountID, recordKey)
		switch {
		case err != nil:
			return nil, err
		case missing == nil:
			return k.unwrap(ctx, e)
		}
		if err := k.supply(ctx, accountID, recordKey, missing); err != nil {
			return nil, fmt.Errorf("creating a data key for account %s: %w", accountID, err)
		}
	}
	return nil, fmt.Errorf("creating a data key for account %s: the event was produced but not read", accountID)
}

// wanted says which key is missing: the account's first, or a record's under parent.
type wanted struct{ parent *entry }

func (k *Keyring) choose(accountID, recordKey string) (*entry, *wanted, error) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	a := k.accounts[accountID]
	if a == nil {
		return nil, &wanted{}, nil
	}
	first, revoked := a.first()
	for _, e := range a.records[recordKey] {
		if e.revoked() {
			return nil, nil, fmt.Errorf("choosing a data key for a record of account %s: %w", accountID, ErrRevoked)
		}
	}
	switch {
	case first == nil && revoked:
		return nil, nil, fmt.Errorf("choosing a data key for account %s: %w", accountID, ErrRevoked)
	case first == nil:
		return nil, &wanted{}, nil
	case !first.perRecord:
		return first, nil, nil
	}
	for _, e := range a.records[recordKey] {
		if e.kind == event.KeyEventKindCreated && e.parent == first.id {
			return e, nil, nil
		}
	}
	return nil, &wanted{parent: first}, nil
}

// first of the account's keys that seal; whether there are revoked ones where there is none.
func (a *account) first() (*entry, bool) {
	revoked := false
	for _, e := range a.keys {
		if e.kind == event.KeyEventKindCreated {
			return e, false
		}
		revoked = revoked || e.revoked()
	}
	return nil, revoked
}

var stripes = maphash.MakeSeed()

func (k *Keyring) stripe(name string) *sync.Mutex {
	return &k.creating[maphash.String(stripes, name)%uint64(len(k.creating))]
}

// supply creates what is missing, unless somebody else has done so meanwhile.
func (k *Keyring) supply(ctx context.Context, accountID, recordKey string, missing *wanted) error {
	if missing.parent == nil {
		recordKey = "" // one lock for the whole account
	}
	lock := k.stripe(accountID + "/" + recordKey)
	lock.Lock()
	defer lock.Unlock()
	if missing.parent == nil {
		// Another instance may have created one a moment ago: look before adding a second.
		if err := k.confirm(ctx); err != nil {
			return err
		}
	}
	k.mu.RLock()
	a := k.accounts[accountID]
	there := false
	if a != nil && missing.parent == nil {
		first, revoked := a.first()
		there = first != nil || revoked
	} else if a != nil {
		for _, e := range a.records[recordKey] {
			there = there || e.kind == event.KeyEventKindCreated && e.parent == missing.parent.id
		}
	}
	k.mu.RUnlock()
	if there {
		return nil
	}
	if missing.parent == nil {
		return k.create(ctx, accountID, false)
	}
	return k.createForRecord(ctx, missing.parent, recordKey)
}

func newKey(accountID string) (id string, key []byte) {
	var part [8]byte
	key = make([]byte, 32)
	rand.Read(part[:]) // never fails
	rand.Read(key)
	return accountID + "/" + hex.EncodeToString(part[:]), key
}

// create produces a new key of an account.
func (k *Keyring) create(ctx context.Context, accountID string, perRecord bool) error {
	id, key := newKey(accountID)
	defer clear(key)
	wrapped, err := k.keys.wrap(ctx, id, key)
	if err != nil {
		return err
	}
	return k.publish(ctx, &event.KeyEvent{
		KeyID: id, Account: accountID, Kind: event.KeyEventKindCreated, WrappedKey: wrapped, KekID: k.keys.kekID, PerRecord: perRecord,
	})
}

// createForRecord produces a new key of a record. Where two instances do so at once, both keys open, and the first one seals
// from then on; shredding ends both.
func (k *Keyring) createForRecord(ctx context.Context, parent *entry, recordKey string) error {
	by, err := k.unwrap(ctx, parent)
	if err != nil {
		return err
	}
	id, key := newKey(parent.account)
	defer clear(key)
	return k.publish(ctx, &event.KeyEvent{
		KeyID: id, Account: parent.account, Kind: event.KeyEventKindCreated, RecordKey: recordKey, ParentKeyID: parent.id, WrappedKey: by.wrap(id, key),
	})
}

// Scope says what the keys of an account are for.
type Scope int

const (
	// SameScope leaves it as it is.
	SameScope Scope = iota
	// AccountScope: one key seals all records.
	AccountScope
	// RecordScope: each record has a key of its own, so that it can be shredded by itself. It costs an event and some
	// milliseconds for each new record, and memory in every keyring.
	RecordScope
)

// Rotate makes an account seal with a new key. Older keys still open; what they sealed stays sealed with them. An account
// without a key gets its first. ErrRevoked: the account was shredded.
func (k *Keyring) Rotate(ctx context.Context, accountID string, scope Scope) (newKeyID string, err error) {
	fail := func(err error) (string, error) {
		return "", fmt.Errorf("rotating the key of account %s: %w", accountID, err)
	}
	if !schemas.ValidAccount(accountID) {
		return fail(errInvalidAccount)
	}
	lock := k.stripe(accountID + "/")
	lock.Lock()
	defer lock.Unlock()
	if err := k.confirm(ctx); err != nil {
		return fail(err)
	}
	var live []*entry
	perRecord := scope == RecordScope
	k.mu.RLock()
	if a := k.accounts[accountID]; a != nil {
		first, revoked := a.first()
		if first == nil && revoked {
			k.mu.RUnlock()
			return fail(ErrRevoked)
		}
		if first != nil && scope == SameScope {
			perRecord = first.perRecord
		}
		for _, e := range a.keys {
			if e.kind == event.KeyEventKindCreated {
				live = append(live, e)
			}
		}
	}
	k.mu.RUnlock()
	// The new key first: at no time is the account without one.
	err = k.create(ctx, accountID, perRecord)
	for _, e := range live {
		if err == nil {
			err = k.publish(ctx, &event.KeyEvent{KeyID: e.id, Account: accountID, Kind: event.KeyEventKindRotated, WrappedKey: e.wrapped, KekID: e.kekID, PerRecord: e.perRecord})
		}
	}
	if err != nil {
		return fail(err)
	}
	k.mu.RLock()
	defer k.mu.RUnlock()
	first, _ := k.accounts[accountID].first()
	if first == nil {
		return fail(ErrRevoked)
	}
	return first.id, nil
}
