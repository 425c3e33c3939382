package stream

import (
	"bytes"
	"fmt"
	"iter"
	"slices"
	"strings"

	"databus/pkg/state"
)

// cache holds rows of one partition over its stores: what the open transaction wrote, what committed ones wrote and Pebble
// does not have yet, and what was read or written lately. Only the owner of a partition writes its rows, so a row stays true
// from one committed transaction to the next.
type cache struct {
	stores  []Store
	tables  []*rowTable // by store
	dirty   [][]int32   // by store, places of rows in order of first write
	pending [][]int32   // by store
	undo    []undo      // what the record in process has changed
	undoing bool
	bytes   int

	open   func() (*state.Reader, error)
	reader *state.Reader // nil until the first miss behind a write to Pebble
}

// undo is what a row was before a write.
type undo struct {
	store int
	place int32
	value []byte
	dirty bool
	fresh bool // the row was not in memory: undoing must forget it, since nobody knows whether it exists
}

func newCache(stores []Store, open func() (*state.Reader, error)) *cache {
	c := &cache{stores: stores, open: open, tables: make([]*rowTable, len(stores)), dirty: make([][]int32, len(stores)), pending: make([][]int32, len(stores))}
	for i := range c.tables {
		c.tables[i] = newRowTable()
	}
	return c
}

func (c *cache) add(store int, key []byte, size int) (place int32) {
	place = c.tables[store].add(key, size)
	c.bytes += c.tables[store].at(place).size()
	return place
}

func (c *cache) remove(store int, place int32) {
	c.bytes -= c.tables[store].at(place).size()
	c.tables[store].remove(place)
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
	t := c.tables[store]
	if place := t.find(key); place != 0 {
		return t.at(place).now(), nil
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
		r := t.at(c.add(store, key, len(v)))
		r.value = v
		r.commit()
		c.bytes += len(v)
	}
	return v, nil
}

// put writes a row; a nil value deletes it.
func (c *cache) put(store int, key, value []byte) {
	t := c.tables[store]
	place := t.find(key)
	fresh := place == 0
	if fresh {
		place = c.add(store, key, len(value))
	}
	r := t.at(place)
	if c.undoing {
		c.undo = append(c.undo, undo{store, place, r.value, r.dirty, fresh})
	}
	c.bytes += len(value) - len(r.value)
	if !r.dirty {
		r.dirty = true
		c.dirty[store] = append(c.dirty[store], place)
	}
	r.value = value
}

// begin starts a record; rollback undoes what was written since. Behind end there is no way back but abort.
func (c *cache) begin() { c.undo, c.undoing = c.undo[:0], true }
func (c *cache) end()   { c.undo, c.undoing = c.undo[:0], false }

func (c *cache) rollback() {
	for i := len(c.undo) - 1; i >= 0; i-- {
		u := &c.undo[i]
		r := c.tables[u.store].at(u.place)
		if !u.dirty && r.dirty {
			// Rows get dirty in this order, so it is the last one.
			c.dirty[u.store] = c.dirty[u.store][:len(c.dirty[u.store])-1]
		}
		c.bytes += len(u.value) - len(r.value)
		r.value, r.dirty = u.value, u.dirty
		if u.fresh {
			c.remove(u.store, u.place)
		}
	}
	c.undo = c.undo[:0]
}

// abort undoes the open transaction.
func (c *cache) abort() {
	for i, t := range c.tables {
		for _, place := range c.dirty[i] {
			if r := t.at(place); r.pending {
				c.bytes -= len(r.value)
				r.value, r.dirty = nil, false
			} else {
				c.remove(i, place)
			}
		}
		c.dirty[i] = c.dirty[i][:0]
	}
	c.undo = c.undo[:0]
}

// committed says that Kafka has committed the transaction. Values get memory of their own: they are parts of chunks, and a row that
// is pending for long would keep the chunk of all those that changed with it.
func (c *cache) committed() {
	for i, t := range c.tables {
		for _, place := range c.dirty[i] {
			r := t.at(place)
			c.bytes -= r.size()
			r.commit()
			c.bytes += r.size()
			if !r.pending {
				r.pending = true
				c.pending[i] = append(c.pending[i], place)
			}
		}
		c.dirty[i] = c.dirty[i][:0]
	}
	clear(c.undo[:cap(c.undo)]) // for the garbage collector
	c.undo = c.undo[:0]
}

// chosen are the stores that are written together: all, or the derived ones alone.
func (c *cache) chosen(derived bool) iter.Seq[int] {
	return func(yield func(int) bool) {
		for i := range c.stores {
			if (!derived || c.stores[i].Derived) && !yield(i) {
				return
			}
		}
	}
}

// waiting are the rows that write will put, and the bytes of their keys and values.
func (c *cache) waiting(derived bool) (rows, bytes int) {
	for i := range c.chosen(derived) {
		rows += len(c.pending[i])
		for _, place := range c.pending[i] {
			bytes += len(c.tables[i].at(place).data)
		}
	}
	return rows, bytes
}

// write puts the rows of committed transactions into a batch. No transaction may be open.
func (c *cache) write(b *state.Batch, partition int32, derived bool) error {
	for i := range c.chosen(derived) {
		for _, place := range c.pending[i] {
			r := c.tables[i].at(place)
			if err := b.Set(partition, c.stores[i].Name, r.key(), r.committed()); err != nil {
				return err
			}
		}
	}
	return nil
}

// written says that Pebble has them. Memory is bounded by starting anew.
func (c *cache) written(limit int, derived bool) error {
	for i := range c.chosen(derived) {
		for _, place := range c.pending[i] {
			c.tables[i].at(place).pending = false
			if c.stores[i].Uncached {
				c.remove(i, place)
			}
		}
		c.pending[i] = c.pending[i][:0]
	}
	if c.bytes > limit/2 && !derived {
		for i := range c.tables {
			c.tables[i] = newRowTable()
		}
		c.bytes = 0
	}
	return c.release()
}

// scan calls each with the rows whose keys start with prefix, from a key on, in order of keys: Pebble's, with those that it
// does not have on top. Rows written during the scan are not seen by it.
func (c *cache) scan(store int, prefix, from string, each func(key, value []byte) bool) error {
	type kept struct {
		key   string
		value []byte
	}
	var over []kept
	for _, places := range [2][]int32{c.dirty[store], c.pending[store]} {
		for _, place := range places {
			r := c.tables[store].at(place)
			if key := r.key(); bytes.HasPrefix(key, []byte(prefix)) && string(key) >= from {
				over = append(over, kept{string(key), r.now()})
			}
		}
	}
	slices.SortFunc(over, func(a, b kept) int { return strings.Compare(a.key, b.key) })
	over = slices.CompactFunc(over, func(a, b kept) bool { return a.key == b.key }) // both dirty and pending: the same row twice
	emit := func(r kept) bool { return r.value == nil || each([]byte(r.key), r.value) }
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
