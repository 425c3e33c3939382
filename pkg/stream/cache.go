package stream

import (
	"fmt"
	"slices"
	"strings"

	"databus/pkg/state"
)

// row is a cached row. A nil value is a row that does not exist.
type row struct {
	key   string
	value []byte
	dirty bool // differs from Pebble: written by the open transaction
}

// cache holds rows of one partition over its stores: what a transaction wrote, until Kafka has committed it, and what was
// read or written lately. Only the owner of a partition writes its rows, so a cached row stays true from one committed
// transaction to the next; an aborted one throws the whole cache away.
type cache struct {
	stores []string
	keep   []bool            // by store: rows stay cached behind the transaction
	rows   []map[string]*row // by store
	dirty  [][]*row          // by store, in order of first write
	undo   []undo            // what the record in process has changed
	bytes  int

	open   func() (*state.Reader, error)
	reader *state.Reader // of the open transaction; nil until the first miss
}

type undo struct {
	store int
	row   *row
	was   row
}

func newCache(stores, uncached []string, open func() (*state.Reader, error)) *cache {
	c := &cache{stores: stores, open: open}
	for _, s := range stores {
		c.keep = append(c.keep, !slices.Contains(uncached, s))
	}
	c.clear()
	return c
}

func (c *cache) clear() {
	c.rows = make([]map[string]*row, len(c.stores))
	c.dirty = make([][]*row, len(c.stores))
	for i := range c.rows {
		c.rows[i] = map[string]*row{}
	}
	c.undo, c.bytes = nil, 0
}

// rowOverhead is about what a cached row costs beside key and value.
const rowOverhead = 120

func (c *cache) add(store int, key string, value []byte) *row {
	r := &row{key: key, value: value}
	c.rows[store][key] = r
	c.bytes += len(key) + len(value) + rowOverhead
	return r
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
	v, ok, err := disk.Get(nil, c.stores[store], key)
	if err != nil {
		return nil, err
	}
	if ok && v == nil {
		v = []byte{}
	}
	if c.keep[store] {
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
	c.undo = append(c.undo, undo{store, r, *r})
	c.bytes += len(value) - len(r.value)
	r.value = value
	if !r.dirty {
		r.dirty = true
		c.dirty[store] = append(c.dirty[store], r)
	}
	if !ok {
		// The row was never read, so undoing the write must forget it instead of remembering that it did not exist.
		c.undo[len(c.undo)-1].was.key = ""
	}
}

// begin starts a record; rollback undoes what was written since.
func (c *cache) begin() { c.undo = c.undo[:0] }

func (c *cache) rollback() {
	for i := len(c.undo) - 1; i >= 0; i-- {
		u := c.undo[i]
		if !u.was.dirty && u.row.dirty {
			// Rows get dirty in this order, so it is the last one.
			c.dirty[u.store] = c.dirty[u.store][:len(c.dirty[u.store])-1]
		}
		if u.was.key == "" {
			delete(c.rows[u.store], u.row.key)
			continue
		}
		*u.row = u.was
	}
	c.undo = c.undo[:0]
}

// scan calls each with the rows whose keys start with prefix, from a key on, in order of keys: Pebble's, with the open transaction's on
// top. Rows written during the scan are not seen by it.
func (c *cache) scan(store int, prefix, from string, each func(key, value []byte) bool) error {
	var over []row
	for _, r := range c.dirty[store] {
		if strings.HasPrefix(r.key, prefix) && r.key >= from {
			over = append(over, *r)
		}
	}
	slices.SortFunc(over, func(a, b row) int { return strings.Compare(a.key, b.key) })
	emit := func(r row) bool { return r.value == nil || each([]byte(r.key), r.value) }
	disk, err := c.disk()
	if err != nil {
		return err
	}
	more := true
	err = disk.ScanFrom(c.stores[store], []byte(prefix), []byte(from), func(key, value []byte) bool {
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

// write puts the transaction's rows into a batch.
func (c *cache) write(b *state.Batch, partition int32) error {
	var key []byte
	for i, store := range c.stores {
		for _, r := range c.dirty[i] {
			key = append(key[:0], r.key...)
			if err := b.Set(partition, store, key, r.value); err != nil {
				return err
			}
		}
	}
	return nil
}

// committed says that Pebble has the transaction's rows. The cache is bounded by starting it anew.
func (c *cache) committed(limit int) {
	if c.bytes > limit {
		c.clear()
	}
	for i := range c.dirty {
		for _, r := range c.dirty[i] {
			r.dirty = false
			if !c.keep[i] {
				delete(c.rows[i], r.key)
				c.bytes -= len(r.key) + len(r.value) + rowOverhead
			}
		}
		clear(c.dirty[i]) // for the garbage collector
		c.dirty[i] = c.dirty[i][:0]
	}
	c.undo = c.undo[:0]
}

// release ends the transaction's view of Pebble.
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
