package stream

import (
	"fmt"
	"slices"
	"strings"

	"databus/pkg/state"
)

// row is a row in memory. A nil value is a row that does not exist.
type row struct {
	key     string
	value   []byte
	before  []byte // the committed value, where the row is both dirty and pending
	dirty   bool   // written by the open transaction
	pending bool   // written by a committed one, and not yet in Pebble
}

// cache holds rows of one partition over its stores: what the open transaction wrote, what committed ones wrote and Pebble
// does not have yet, and what was read or written lately. Only the owner of a partition writes its rows, so a row stays true
// from one committed transaction to the next.
type cache struct {
	stores  []Store
	rows    []map[string]*row // by store
	dirty   [][]*row          // by store, in order of first write
	pending [][]*row          // by store
	undo    []undo            // what the record in process has changed
	undoing bool
	bytes   int

	open   func() (*state.Reader, error)
	reader *state.Reader // nil until the first miss behind a write to Pebble
}

type undo struct {
	store int
	row   *row
	was   row
	fresh bool // the row was not in memory: undoing must forget it, since nobody knows whether it exists
}

func newCache(stores []Store, open func() (*state.Reader, error)) *cache {
	c := &cache{stores: stores, open: open, rows: make([]map[string]*row, len(stores)), dirty: make([][]*row, len(stores)), pending: make([][]*row, len(stores))}
	for i := range c.rows {
		c.rows[i] = map[string]*row{}
	}
	return c
}

// rowOverhead is about what a cached row costs beside key and value.
const rowOverhead = 150

func (r *row) size() int { return len(r.key) + len(r.value) + rowOverhead }

func (c *cache) add(store int, key string, value []byte) *row {
	r := &row{key: key, value: value}
	c.rows[store][key] = r
	c.bytes += r.size()
	return r
}

func (c *cache) remove(store int, r *row) {
	delete(c.rows[store], r.key)
	c.bytes -= r.size()
}

func (c *cache) disk() (*state.Reader, error) {
	if c.reader == nil {
		var err error
		if c.reader, err = c.open(); err != nil {
			return nil, err
		}
	}
	return c.reader, nil
}

func (c *cache) get(store int, key []byte) ([]byte, error) {
	if r, ok := c.rows[store][string(key)]; ok {
		return r.value, nil
	}
	disk, err := c.disk()
	if err != nil {
		return nil, err
	}
	v, ok, err := disk.Get(nil, c.stores[store].Name, key)
	if err != nil {
		return nil, err
	}
	if ok && v == nil {
		v = []byte{}
	}
	if !c.stores[store].Uncached {
		c.add(store, string(key), v)
	}
	return v, nil
}

// put writes a row; a nil value deletes it.
func (c *cache) put(store int, key, value []byte) {
	r, ok := c.rows[store][string(key)]
	if !ok {
		r = c.add(store, string(key), nil)
	}
	if c.undoing {
		c.undo = append(c.undo, undo{store, r, *r, !ok})
	}
	c.bytes += len(value) - len(r.value)
	if !r.dirty {
		r.dirty = true
		c.dirty[store] = append(c.dirty[store], r)
		if r.pending {
			r.before = r.value
		}
	}
	r.value = value
}

// begin starts a record; rollback undoes what was written since. Behind end there is no way back but abort.
func (c *cache) begin() { c.undo, c.undoing = c.undo[:0], true }
func (c *cache) end()   { c.undo, c.undoing = c.undo[:0], false }

func (c *cache) rollback() {
	for i := len(c.undo) - 1; i >= 0; i-- {
		u := c.undo[i]
		if !u.was.dirty && u.row.dirty {
			// Rows get dirty in this order, so it is the last one.
			c.dirty[u.store] = c.dirty[u.store][:len(c.dirty[u.store])-1]
		}
		c.bytes += len(u.was.value) - len(u.row.value)
		*u.row = u.was
		if u.fresh {
			c.remove(u.store, u.row)
		}
	}
	c.undo = c.undo[:0]
}

// abort undoes the open transaction.
func (c *cache) abort() {
	for i := range c.dirty {
		for _, r := range c.dirty[i] {
			if r.pending {
				c.bytes += len(r.before) - len(r.value)
				r.value, r.before, r.dirty = r.before, nil, false
			} else {
				c.remove(i, r)
			}
		}
		clear(c.dirty[i])
		c.dirty[i] = c.dirty[i][:0]
	}
	c.undo = c.undo[:0]
}

// committed says that Kafka has committed the transaction.
func (c *cache) committed() {
	for i := range c.dirty {
		for _, r := range c.dirty[i] {
			r.dirty, r.before = false, nil
			if !r.pending {
				r.pending = true
				c.pending[i] = append(c.pending[i], r)
			}
		}
		clear(c.dirty[i]) // for the garbage collector
		c.dirty[i] = c.dirty[i][:0]
	}
	c.undo = c.undo[:0]
}

// write puts the rows of committed transactions into a batch. No transaction may be open.
func (c *cache) write(b *state.Batch, partition int32) error {
	var key []byte
	for i, store := range c.stores {
		for _, r := range c.pending[i] {
			key = append(key[:0], r.key...)
			if err := b.Set(partition, store.Name, key, r.value); err != nil {
				return err
			}
		}
	}
	return nil
}

// written says that Pebble has them. Memory is bounded by starting anew.
func (c *cache) written(limit int) error {
	for i := range c.pending {
		for _, r := range c.pending[i] {
			r.pending = false
			if c.stores[i].Uncached {
				c.remove(i, r)
			}
		}
		clear(c.pending[i])
		c.pending[i] = c.pending[i][:0]
	}
	if c.bytes > limit/2 {
		for i := range c.rows {
			c.rows[i] = map[string]*row{}
		}
		c.bytes = 0
	}
	return c.release()
}

// scan calls each with the rows whose keys start with prefix, from a key on, in order of keys: Pebble's, with those that it
// does not have on top. Rows written during the scan are not seen by it.
func (c *cache) scan(store int, prefix, from string, each func(key, value []byte) bool) error {
	var over []row
	for _, rows := range [2][]*row{c.dirty[store], c.pending[store]} {
		for _, r := range rows {
			if strings.HasPrefix(r.key, prefix) && r.key >= from {
				over = append(over, *r)
			}
		}
	}
	slices.SortFunc(over, func(a, b row) int { return strings.Compare(a.key, b.key) })
	over = slices.CompactFunc(over, func(a, b row) bool { return a.key == b.key }) // both dirty and pending: the same row twice
	emit := func(r row) bool { return r.value == nil || each([]byte(r.key), r.value) }
	disk, err := c.disk()
	if err != nil {
		return err
	}
	more := true
	err = disk.ScanFrom(c.stores[store].Name, []byte(prefix), []byte(from), func(key, value []byte) bool {
		for more && len(over) > 0 && over[0].key < string(key) {
			more, over = emit(over[0]), over[1:]
		}
		switch {
		case !more:
		case len(over) > 0 && over[0].key == string(key):
			more, over = emit(over[0]), over[1:]
		default:
			more = each(key, value)
		}
		return more
	})
	for more && err == nil && len(over) > 0 {
		more, over = emit(over[0]), over[1:]
	}
	return err
}

// release ends the view of Pebble.
func (c *cache) release() error {
	if c.reader == nil {
		return nil
	}
	r := c.reader
	c.reader = nil
	if err := r.Close(); err != nil {
		return fmt.Errorf("releasing state: %w", err)
	}
	return nil
}
