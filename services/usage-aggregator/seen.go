package usageaggregator

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"time"

	"databus/pkg/stream"
)

// bucketMillis is the width of a bucket of append time. It is part of the stored keys and does not depend on the
// window, so that a changed window finds the ids that are there.
const bucketMillis = int64(12 * time.Hour / time.Millisecond)

// seen are the ids of the events counted within the window: rows of a store, so they are restored with the rest and
// memory is bounded by the cache. A key starts with its bucket, so ids expire in the order of the keys:
//
//	bucket, 8 digits / account / event id -> append time of the first event, ms
type seen struct {
	window int64 // ms; 0 turns it off
	newest int64 // append time of the newest event of the open transaction, ms
	count  int   // events of the open transaction
	oldest int64 // no bucket before this one has rows; -1 until the first look
}

func newSeen(window time.Duration) seen { return seen{window: window.Milliseconds(), oldest: -1} }

func seenKey(dst []byte, bucket int64, account, id string) []byte {
	dst = fmt.Appendf(dst, "%08d/", bucket)
	return append(append(append(dst, account...), '/'), id...)
}

// check says whether the id occurred within the window before at, and remembers it if not. A repeat does not extend the
// window.
func (s *seen) check(tx *stream.Tx, account, id string, at int64) (bool, error) {
	if s.window == 0 {
		return false, nil
	}
	at = max(at, 0)
	s.newest = max(s.newest, at)
	s.count++
	var buf [256]byte
	bucket := at / bucketMillis
	// A leader change may turn append time back a little: look into the following bucket as well.
	for b := bucket + 1; b >= 0 && b >= (at-s.window)/bucketMillis; b-- {
		row, err := tx.Get(storeSeen, seenKey(buf[:0], b, account, id))
		if err != nil {
			return false, err
		}
		if row == nil {
			continue
		}
		first, n := binary.Varint(row)
		if n <= 0 {
			return false, fmt.Errorf("reading the ids seen: a row is cut off")
		}
		if at-first < s.window {
			return true, nil
		}
	}
	tx.Put(storeSeen, seenKey(nil, bucket, account, id), binary.AppendVarint(nil, at))
	return false, nil
}

// prune deletes expired ids: up to four for each event of the transaction, so that there are never many more than the
// window holds and no transaction becomes long. Only events cause it, like every change of state.
func (s *seen) prune(tx *stream.Tx) error {
	budget := 4 * s.count
	s.count = 0
	if s.window == 0 {
		return nil
	}
	// Buckets wholly out of the window, with one bucket of slack for events that are a little late.
	keep := (s.newest-s.window)/bucketMillis - 1
	for budget > 0 && s.oldest < keep {
		var old [][]byte
		prefix := []byte{}
		if s.oldest >= 0 {
			prefix = fmt.Appendf(nil, "%08d/", s.oldest) // not from the start, where the deleted ones are
		}
		bucket := int64(-1)
		err := tx.Scan(storeSeen, prefix, func(key, _ []byte) bool {
			b, err := strconv.ParseInt(string(key[:8]), 10, 64)
			if err != nil || b >= keep {
				bucket = keep
				return false
			}
			bucket = b
			old = append(old, append([]byte{}, key...))
			return len(old) < budget
		})
		if err != nil {
			return err
		}
		for _, key := range old {
			tx.Delete(storeSeen, key)
		}
		switch {
		case len(old) == budget:
			s.oldest = max(s.oldest, min(bucket, keep))
			if s.oldest < 0 {
				s.oldest = 0
			}
			return nil
		case s.oldest < 0:
			s.oldest = keep // everything before was deleted now
		default:
			s.oldest++
		}
		budget -= len(old)
	}
	return nil
}
