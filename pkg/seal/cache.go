package seal

import (
	"context"
	"fmt"
	"sync"
)

// cache bounds how many data keys are unwrapped, by the clock algorithm: one that was used since the hand came by stays.
type cache struct {
	limit int

	mu   sync.Mutex
	open []*entry // may hold some that were forgotten since
	n    int      // of those that are unwrapped
}

// add publishes an unwrapped key.
func (c *cache) add(e *entry, key *DataKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !e.unwrapped.CompareAndSwap(nil, key) {
		return
	}
	e.recently.Store(true)
	if c.n >= c.limit {
		c.evict()
	}
	c.open = append(c.open, e)
	c.n++
}

// evict makes room for a tenth of the limit, so that rounds are rare.
func (c *cache) evict() {
	goal := c.limit - max(1, c.limit/10)
	for round := 0; round < 2 && c.n > goal; round++ {
		kept := c.open[:0]
		for _, e := range c.open {
			switch {
			case e.unwrapped.Load() == nil: // forgotten
			case c.n > goal && (!e.recently.Swap(false) || round > 0):
				e.unwrapped.Store(nil)
				c.n--
			default:
				kept = append(kept, e)
			}
		}
		clear(c.open[len(kept):])
		c.open = kept
	}
}

// forget closes a key. Calls that have it already finish with it.
func (c *cache) forget(e *entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.unwrapped.Swap(nil) != nil {
		c.n--
	}
}

// clear closes all keys.
func (c *cache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.open {
		e.unwrapped.Store(nil)
	}
	clear(c.open)
	c.open, c.n = c.open[:0], 0
}

// unwrap returns an entry's key; that it is not revoked has been checked.
func (k *Keyring) unwrap(ctx context.Context, e *entry) (*DataKey, error) {
	if key := e.unwrapped.Load(); key != nil {
		if !e.recently.Load() { // spares the other CPU's cache line
			e.recently.Store(true)
		}
		return key, nil
	}
	e.unwrapping.Lock()
	defer e.unwrapping.Unlock()
	if key := e.unwrapped.Load(); key != nil {
		return key, nil
	}
	raw, err := k.unwrapRaw(ctx, e)
	if err != nil {
		return nil, err
	}
	key, err := newDataKey(e.id, e.account, e.record, raw)
	clear(raw)
	if err != nil {
		return nil, err
	}
	// Revoked or replaced meanwhile: don't put it back into memory. The lock keeps that from happening in between.
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.byID[e.id] == e && !k.dead(e) {
		k.cache.add(e, key)
	}
	return key, nil
}

func (k *Keyring) unwrapRaw(ctx context.Context, e *entry) ([]byte, error) {
	if e.parent == "" {
		return k.keys.unwrap(ctx, e.id, e.kekID, e.wrapped)
	}
	parent, revoked := k.entry(e.parent)
	if parent == nil || revoked {
		return nil, fmt.Errorf("opening key %s: %w", e.id, ErrRevoked)
	}
	by, err := k.unwrap(ctx, parent)
	if err != nil {
		return nil, err
	}
	raw, err := by.unwrap(e.id, e.wrapped)
	if err != nil {
		return nil, fmt.Errorf("unwrapping key %s with %s: %w", e.id, parent.id, err)
	}
	return raw, nil
}
