package stream

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Tx is a handler's view of one partition within the open transaction. It is valid during the call only. Mistakes of the
// service, such as a store that it did not declare, panic.
type Tx struct {
	ctx   context.Context
	task  *task
	cache *cache
	out   []*kgo.Record
	room  room // for out
}

// Context ends when the instance must give up, not when it is asked to stop: what was polled is processed.
func (tx *Tx) Context() context.Context { return tx.ctx }

// Partition is the partition of all inputs and of the rows.
func (tx *Tx) Partition() int32 { return tx.task.partition }

// Partitions is the number of partitions of all inputs.
func (tx *Tx) Partitions() int32 { return tx.task.r.partitions }

// Get returns a row, or nil if it does not exist. The bytes must not be changed, and are valid while the transaction is open.
func (tx *Tx) Get(store string, key []byte) ([]byte, error) {
	return tx.cache.get(tx.store(store), key)
}

// Put writes a row. The runtime keeps value: it must not be changed afterwards.
func (tx *Tx) Put(store string, key, value []byte) {
	if value == nil {
		value = []byte{}
	}
	tx.cache.put(tx.store(store), key, value)
}

// Delete removes a row.
func (tx *Tx) Delete(store string, key []byte) { tx.cache.put(tx.store(store), key, nil) }

// Scan calls each with the rows whose keys start with prefix, in order of keys, until it returns false. Key and value
// are valid during the call only. Rows may be read and written meanwhile, which the scan does not see; another scan
// may not be started.
func (tx *Tx) Scan(store string, prefix []byte, each func(key, value []byte) bool) error {
	return tx.cache.scan(tx.store(store), string(prefix), string(prefix), each)
}

// ScanFrom is Scan from a key on, which starts with prefix.
func (tx *Tx) ScanFrom(store string, prefix, from []byte, each func(key, value []byte) bool) error {
	return tx.cache.scan(tx.store(store), string(prefix), string(from), each)
}

// Emit produces a record when the transaction ends. The catalogue says which partition the key belongs to. The runtime
// keeps key and value.
func (tx *Tx) Emit(topic string, key, value []byte, headers ...kgo.RecordHeader) {
	if !tx.task.r.shape.sinks[topic] {
		panic(fmt.Sprintf("stream: %s emits to %s, which is no sink of its topology", tx.task.r.o.Group, topic))
	}
	if tx.task.r.shape.kept[topic] != 0 {
		panic(fmt.Sprintf("stream: %s emits to %s, which holds the rows of a store: Put does that", tx.task.r.o.Group, topic))
	}
	rec := tx.room.record()
	*rec = kgo.Record{Topic: topic, Key: key, Value: value, Headers: headers}
	tx.out = append(tx.out, rec)
}

func (tx *Tx) store(name string) int {
	i, ok := tx.task.r.shape.stores[name]
	if !ok {
		panic(fmt.Sprintf("stream: %s uses store %s, which it did not declare", tx.task.r.o.Group, name))
	}
	return i
}

// room is memory for the records of a transaction, in chunks: one allocation for hundreds of records instead of several
// for each. A chunk is freed with the last record in it and never used again, since the client may still hold records of
// a transaction that was given up.
type room struct {
	bytes   []byte // the rest of the chunk, from length 0
	records []kgo.Record
}

const (
	chunkBytes   = 32 << 10
	roomy        = 512 // bytes: most keys and values fit; others get memory of their own from append
	chunkRecords = 128
)

// free returns an empty slice to append to; take keeps what was appended.
func (r *room) free() []byte {
	if cap(r.bytes) < roomy {
		r.bytes = make([]byte, 0, chunkBytes)
	}
	return r.bytes
}

func (r *room) take(b []byte) []byte {
	if n := len(b); n > 0 && n <= cap(r.bytes) && &b[0] == &r.bytes[:1][0] {
		r.bytes = r.bytes[n:n:cap(r.bytes)]
		return b[:n:n]
	}
	return b
}

func (r *room) record() *kgo.Record {
	if len(r.records) == 0 {
		r.records = make([]kgo.Record, chunkRecords)
	}
	rec := &r.records[0]
	r.records = r.records[1:]
	return rec
}
