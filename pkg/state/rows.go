package state

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

// Reader reads the rows of one partition as they were when it was made.
type Reader struct {
	db        *DB
	partition int32
	point     *pebble.Iterator
	scan      *pebble.Iterator // made with the first Scan
	key       []byte           // reused
}

// NewReader returns a view of a partition. Close it soon: it keeps old versions of rows alive.
func (d *DB) NewReader(partition int32) (*Reader, error) {
	r := &Reader{db: d, partition: partition}
	var err error
	// DB.Get never asks the last level's Bloom filters, although almost all rows are there, so that a look-up of a row
	// that does not exist reads a block. An iterator with UseL6Filters does ask them.
	if r.point, err = d.db.NewIter(r.options()); err != nil {
		return nil, fmt.Errorf("reading partition %d in %s: %w", partition, d.dir, err)
	}
	return r, nil
}

func (r *Reader) options() *pebble.IterOptions {
	return &pebble.IterOptions{LowerBound: rowPrefix(nil, r.partition), UpperBound: rowsEnd(r.partition), UseL6Filters: true}
}

// Get appends the row to dst and says whether it exists.
func (r *Reader) Get(dst []byte, store string, key []byte) ([]byte, bool, error) {
	r.key = appendRowKey(r.key[:0], r.partition, store, key)
	if !r.point.SeekPrefixGE(r.key) || !bytes.Equal(r.point.Key(), r.key) {
		if err := r.point.Error(); err != nil {
			return dst, false, fmt.Errorf("reading store %s of partition %d in %s: %w", store, r.partition, r.db.dir, err)
		}
		return dst, false, nil
	}
	v, err := r.point.ValueAndErr()
	if err != nil {
		return dst, false, fmt.Errorf("reading store %s of partition %d in %s: %w", store, r.partition, r.db.dir, err)
	}
	return append(dst, v...), true, nil
}

// Scan calls each with the rows of a store whose keys start with prefix, in order, until each returns false. Key and
// value are valid during the call only. Get may be called meanwhile, another Scan may not.
func (r *Reader) Scan(store string, prefix []byte, each func(key, value []byte) bool) error {
	return r.ScanFrom(store, prefix, prefix, each)
}

// ScanFrom is Scan from a key on, which starts with prefix.
func (r *Reader) ScanFrom(store string, prefix, from []byte, each func(key, value []byte) bool) error {
	fail := func(err error) error {
		return fmt.Errorf("scanning store %s of partition %d in %s: %w", store, r.partition, r.db.dir, err)
	}
	if r.scan == nil {
		var err error
		if r.scan, err = r.db.db.NewIter(r.options()); err != nil {
			return fail(err)
		}
	}
	start := appendRowKey(nil, r.partition, store, prefix)
	skip := len(start) - len(prefix)
	for ok := r.scan.SeekGE(appendRowKey(nil, r.partition, store, from)); ok && bytes.HasPrefix(r.scan.Key(), start); ok = r.scan.Next() {
		v, err := r.scan.ValueAndErr()
		if err != nil {
			return fail(err)
		}
		if !each(r.scan.Key()[skip:], v) {
			return nil
		}
	}
	if err := r.scan.Error(); err != nil {
		return fail(err)
	}
	return nil
}

// Close ends the view.
func (r *Reader) Close() error {
	err := r.point.Close()
	if r.scan != nil {
		if e := r.scan.Close(); err == nil {
			err = e
		}
	}
	if err != nil {
		return fmt.Errorf("reading partition %d in %s: %w", r.partition, r.db.dir, err)
	}
	return nil
}

// Batch collects rows and positions that become visible at once.
type Batch struct {
	db  *DB
	b   *pebble.Batch
	key []byte
}

// NewBatch returns an empty batch. Close it whether it was committed or not.
func (d *DB) NewBatch() *Batch { return &Batch{db: d, b: d.db.NewBatch()} }

// NewBatchOf returns an empty batch with room for about so many rows, and bytes of their keys and values.
func (d *DB) NewBatchOf(rows, bytes int) *Batch {
	const each = 48 // the key's prefix, and what Pebble adds
	return &Batch{db: d, b: d.db.NewBatchWithSize(rows*each + bytes)}
}

// Set writes a row; a nil value deletes it.
func (b *Batch) Set(partition int32, store string, key, value []byte) error {
	b.key = appendRowKey(b.key[:0], partition, store, key)
	var err error
	if value == nil {
		err = b.b.Delete(b.key, nil)
	} else {
		err = b.b.Set(b.key, value, nil)
	}
	if err != nil {
		return fmt.Errorf("writing store %s of partition %d in %s: %w", store, partition, b.db.dir, err)
	}
	return nil
}

// DeleteStore deletes all rows of a store.
func (b *Batch) DeleteStore(partition int32, store string) error {
	start := appendRowKey(nil, partition, store, nil)
	end := append(append([]byte{}, start[:len(start)-1]...), 1) // behind the zero byte that ends the name
	if err := b.b.DeleteRange(start, end, nil); err != nil {
		return fmt.Errorf("deleting store %s of partition %d in %s: %w", store, partition, b.db.dir, err)
	}
	return nil
}

// SetPosition says what the partition's rows stand for once the batch is in.
func (b *Batch) SetPosition(partition int32, p Position) error {
	v, err := json.Marshal(p)
	if err == nil {
		err = b.b.Set(positionKey(partition), v, nil)
	}
	if err != nil {
		return fmt.Errorf("writing position of partition %d in %s: %w", partition, b.db.dir, err)
	}
	return nil
}

// Bytes is the size of the batch so far.
func (b *Batch) Bytes() int { return b.b.Len() }

// Commit makes the batch visible. It does not wait for the disk: the changelog is the durable copy, and a batch that a
// crash loses takes its position with it.
func (b *Batch) Commit() error {
	if err := b.b.Commit(pebble.NoSync); err != nil {
		return fmt.Errorf("committing state in %s: %w", b.db.dir, err)
	}
	return nil
}

// Close frees the batch.
func (b *Batch) Close() error {
	if err := b.b.Close(); err != nil {
		return fmt.Errorf("closing a batch in %s: %w", b.db.dir, err)
	}
	return nil
}
