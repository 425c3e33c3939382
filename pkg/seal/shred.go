package seal

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/schemas"
	"databus/schemas/event"
)

// Shred says what shall disappear.
type Shred struct {
	Account string
	// RecordKeys limits it to these records, which must have keys of their own; empty means the whole account.
	RecordKeys []string
	// Backups is how long the operator keeps backups of the brokers' disks; 0 means that there are none.
	Backups time.Duration
}

const (
	// cleaning is added to keys.events' compaction lag: the time that the broker's cleaner and its delayed deletion take.
	cleaning = time.Hour
	// clocks is added to the lease where somebody else waits for its end: two machines' clocks do not run equally fast.
	clocks = 1.02
)

// Shred revokes the keys of an account, or of some of its records, and returns when nobody can use them any more: every
// holder has said that it dropped them, or has said nothing for as long as its lease may last. It may be asked for again,
// also where an earlier attempt was interrupted; then the receipt is a new one.
//
// ErrNoOwnKey: one of the records has no key of its own; nothing was revoked. ErrUnknownKey: the account has no key.
func (k *Keyring) Shred(ctx context.Context, s Shred) (*Receipt, error) {
	fail := func(err error) (*Receipt, error) {
		return nil, fmt.Errorf("shredding in account %s: %w", s.Account, err)
	}
	if !schemas.ValidAccount(s.Account) {
		return fail(errInvalidAccount)
	}
	var random [8]byte
	rand.Read(random[:]) // never fails
	r := &Receipt{ID: hex.EncodeToString(random[:]), Account: s.Account}
	holders, expired := map[string]bool{}, map[string]bool{}
	// Somebody who did not know of the revocation may have made another key meanwhile, so it is looked for again.
	for round := 0; ; round++ {
		if err := k.confirm(ctx); err != nil {
			return fail(err)
		}
		live, remaining, err := k.live(s)
		if err != nil {
			return fail(err)
		}
		if len(live) == 0 && round > 0 {
			break
		}
		if err := k.revoke(ctx, live, r.ID); err != nil {
			return fail(err)
		}
		r.Keys, r.Remaining = r.Keys+int64(len(live)), remaining
		if err := k.wait(ctx, r, round, holders, expired); err != nil {
			return fail(err)
		}
	}
	for name := range holders {
		delete(expired, name)
	}
	r.Holders, r.Expired = slices.Sorted(maps.Keys(holders)), slices.Sorted(maps.Keys(expired))
	r.At = time.Now().UTC().Truncate(time.Microsecond)
	r.LogUntil = r.At.Add(schemas.MustLookup(schemas.KeysEvents).MaxCompactionLag + cleaning)
	r.BackupsUntil = r.LogUntil.Add(s.Backups)
	err := k.publish(ctx, &event.KeyEvent{
		KeyID: shredKey(s.Account, r.ID), Account: s.Account, Kind: event.KeyEventKindShredded, ShredID: r.ID, Keys: r.Keys,
		Holders: r.Holders, Expired: r.Expired, Remaining: r.Remaining, LogUntil: r.LogUntil, BackupsUntil: r.BackupsUntil,
	})
	if err != nil {
		return fail(err)
	}
	return r, k.tidy(ctx, r)
}

// live are the keys that are not revoked yet; remaining are those that will not be and may have sealed what is meant.
func (k *Keyring) live(s Shred) (live []*entry, remaining []string, err error) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	a := k.accounts[s.Account]
	if a == nil || len(a.keys) == 0 {
		return nil, nil, ErrUnknownKey
	}
	add := func(list []*entry) {
		for _, e := range list {
			if !e.revoked() {
				live = append(live, e)
			}
		}
	}
	if len(s.RecordKeys) == 0 {
		add(a.keys) // records' own are wrapped by them
		return live, nil, nil
	}
	for i, key := range s.RecordKeys {
		if len(a.records[key]) == 0 {
			return nil, nil, fmt.Errorf("record %d of %d: %w; `databus keys rotate %s --per-record` gives a key to each record that is written from then on", i+1, len(s.RecordKeys), ErrNoOwnKey, s.Account)
		}
		add(a.records[key])
	}
	for _, e := range a.keys {
		if !e.revoked() && !e.perRecord {
			remaining = append(remaining, e.id)
		}
	}
	return live, remaining, nil
}

func (k *Keyring) revoke(ctx context.Context, live []*entry, id string) error {
	events := make([]*event.KeyEvent, 0, len(live))
	for _, e := range live {
		events = append(events, &event.KeyEvent{KeyID: e.id, Account: e.account, Kind: event.KeyEventKindRevoked, RecordKey: e.record, ParentKeyID: e.parent,
			PerRecord: e.perRecord, ShredID: id})
	}
	return k.publish(ctx, events...)
}

// wait asks the holders and waits for them.
func (k *Keyring) wait(ctx context.Context, r *Receipt, round int, holders, expired map[string]bool) error {
	id := r.ID
	if round > 0 {
		id = fmt.Sprintf("%s.%d", r.ID, round)
	}
	ask := &event.KeyEvent{KeyID: shredKey(r.Account, id), Account: r.Account, Kind: event.KeyEventKindShred, ShredID: id}
	if err := k.publish(ctx, ask); err != nil {
		return err
	}
	// From here on, whoever is not on keys.events as a holder yet reads the revocations before it uses any key.
	if err := k.confirm(ctx); err != nil {
		return err
	}
	over := time.NewTimer(time.Duration(float64(k.lease.length) * clocks))
	defer over.Stop()
	poll := time.NewTicker(min(50*time.Millisecond, k.lease.length/20))
	defer poll.Stop()
	for {
		k.mu.RLock()
		open := k.shreds.open[ask.KeyID] // there since it was read back
		missing := k.shreds.missing(open)
		for name := range open.receipts {
			holders[name] = true
		}
		k.mu.RUnlock()
		if len(missing) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for holders of the keys: %w; the keys are revoked already, ask again for the receipt", ctx.Err())
		case <-over.C:
			for _, name := range missing {
				expired[name] = true
			}
			return nil
		case <-poll.C:
		}
	}
}

// tidy removes the receipts and further rounds of a shredding that has its result, and the names of holders that said
// nothing; one that lives announces itself again.
func (k *Keyring) tidy(ctx context.Context, r *Receipt) error {
	var recs []*kgo.Record
	k.mu.RLock()
	for key, open := range k.shreds.open {
		if open.account == r.Account && strings.HasPrefix(open.id, r.ID+".") {
			recs = append(recs, k.record(key, nil))
			for name := range open.receipts {
				recs = append(recs, k.record(receiptKey(r.Account, open.id, name), nil))
			}
		}
	}
	k.mu.RUnlock()
	for _, name := range r.Holders {
		recs = append(recs, k.record(receiptKey(r.Account, r.ID, name), nil))
	}
	for _, name := range r.Expired {
		recs = append(recs, k.record(holderKey(name), nil))
	}
	if err := k.produce(ctx, recs...); err != nil {
		return fmt.Errorf("tidying up after shredding in account %s, which is done: %w", r.Account, err)
	}
	return nil
}
