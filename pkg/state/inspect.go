package state

import (
	"bytes"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

// StoreSize says how many rows a store has in a partition, and the bytes of their keys and values before compression.
type StoreSize struct {
	Store string
	Rows  int64
	Bytes int64
}

// Sizes counts the rows of every store of a partition, in order of their names. It reads all of them: it is for
// inspection.
func (d *DB) Sizes(partition int32) ([]StoreSize, error) {
	fail := func(err error) error {
		return fmt.Errorf("counting the rows of partition %d in %s: %w", partition, d.dir, err)
	}
	prefix := rowPrefix(nil, partition)
	it, err := d.db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: rowsEnd(partition)})
	if err != nil {
		return nil, fail(err)
	}
	var all []StoreSize
	for ok := it.First(); ok; ok = it.Next() {
		name, key, _ := bytes.Cut(it.Key()[len(prefix):], []byte{0})
		value, verr := it.ValueAndErr()
		if verr != nil {
			err = verr
			break
		}
		if len(all) == 0 || all[len(all)-1].Store != string(name) {
			all = append(all, StoreSize{Store: string(name)})
		}
		s := &all[len(all)-1]
		s.Rows++
		s.Bytes += int64(len(key) + len(value))
	}
	if cerr := it.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, fail(err)
	}
	return all, nil
}
