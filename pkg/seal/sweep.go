package seal

import (
	"context"
	"fmt"
	"slices"
	"time"

	"databus/schemas"
	"databus/schemas/event"
)

// What a database does about revoked keys: see identity.Sweep.

// Revocation is a key that is revoked, itself and not only by its parent.
type Revocation struct {
	KeyID, Account string
	// RecordKey is set where it was one record's key. Then it is the only record that can hold something sealed with it.
	RecordKey string
	// At is when it was revoked.
	At time.Time

	partition int32
	offset    int64
}

// Revocations changes whenever Unswept may have more to say.
func (k *Keyring) Revocations() int64 { return k.revocations.Load() }

// Unswept returns the revocations that a database has not carried out, and the positions on keys.events before which it
// has once it does. Those that may not be known to every holder yet are left out, and then whole says false: ask again
// later.
func (k *Keyring) Unswept(database string) (pending []Revocation, positions []int64, whole bool) {
	known := k.Positions()
	k.mu.RLock()
	defer k.mu.RUnlock()
	swept := k.shreds.swept[database]
	positions, whole = known, true
	settled := func(e *entry) bool {
		return time.Since(e.seen) > time.Duration(float64(k.lease.length)*clocks)
	}
	for _, e := range k.byID {
		if !e.revoked() {
			continue
		}
		p := schemas.Partition(schemas.KeysEvents, []byte(e.id), int32(len(known)))
		switch {
		case int(p) < len(swept) && e.offset < swept[p]:
		case !settled(e) && !k.answered(e):
			whole = false
			positions[p] = min(positions[p], e.offset)
		default:
			pending = append(pending, Revocation{KeyID: e.id, Account: e.account, RecordKey: e.record, At: e.at, partition: p, offset: e.offset})
		}
	}
	// Done by position: what is behind one that has to wait, waits too.
	pending = slices.DeleteFunc(pending, func(r Revocation) bool { return r.offset >= positions[r.partition] })
	return pending, positions, whole
}

// answered says whether a shredding of an account that came behind a revocation has its result; the lock is held.
func (k *Keyring) answered(e *entry) bool {
	for _, r := range k.shreds.results {
		if r.Account == e.account && r.offset > e.offset {
			return true
		}
	}
	return false
}

// Swept says on keys.events that a database has carried out the revocations before these positions.
func (k *Keyring) Swept(ctx context.Context, database string, positions []int64) error {
	err := k.publish(ctx, &event.KeyEvent{KeyID: databaseKey(database), Kind: event.KeyEventKindSwept, Holder: database, Positions: positions})
	if err != nil {
		return fmt.Errorf("saying that database %s has carried out revocations: %w", database, err)
	}
	return nil
}

// IsSwept says whether a database has carried out everything that a shredding revoked.
func (k *Keyring) IsSwept(database string, r *Receipt) bool {
	k.mu.RLock()
	defer k.mu.RUnlock()
	swept := k.shreds.swept[database]
	for _, e := range k.byID {
		if e.account != r.Account || !e.revoked() || r.offset > 0 && e.offset > r.offset {
			continue
		}
		if p := schemas.Partition(schemas.KeysEvents, []byte(e.id), k.follower.Partitions()); int(p) >= len(swept) || e.offset >= swept[p] {
			return false
		}
	}
	return true
}
