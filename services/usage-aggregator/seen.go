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
	// has says which buckets may hold rows: a look-up in a bucket that has none would be one of several for each event.
	has map[int64]bool
	// fresh are filters of the buckets that had no rows when they were first looked at: all their ids passed by here. For
	// others, which a restart leaves until they are over, the store is asked. An aborted transaction throws them away.
	fresh map[int64]*filter
}

func newSeen(window time.Duration) seen {
	return seen{window: window.Milliseconds(), oldest: -1, has: map[int64]bool{}, fresh: map[int64]*filter{}}
}

func seenKey(dst []byte, bucket int64, account, id string) []byte {
	dst = bucketKey(dst, bucket)
	return append(append(append(dst, account...), '/'), id...)
}

// bucketKey appends the bucket in 8 digits, enough until far beyond the year 100,000, and "/".
func bucketKey(dst []byte, bucket int64) []byte {
	for p := int64(10_000_000); p > 0; p /= 10 {
		dst = append(dst, byte('0'+bucket/p%10))
	}
	return append(dst, '/')
}

// filled says whether a bucket may hold rows. Only this partition's transactions write them, so one look is enough.
func (s *seen) filled(tx *stream.Tx, bucket int64) (bool, error) {
	if has, ok := s.has[bucket]; ok {
		return has, nil
	}
	if len(s.has) > 1000 {
		clear(s.has)
		clear(s.fresh)
	}
	has := false
	err := tx.Scan(storeSeen, bucketKey(nil, bucket), func([]byte, []byte) bool { has = true; return false })
	if err != nil {
		return false, err
	}
	s.has[bucket] = has
	if !has {
		s.fresh[bucket] = newFilter()
	}
	return has, nil
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
		if has, err := s.filled(tx, b); err != nil {
			return false, err
		} else if !has {
			continue
		}
		key := seenKey(buf[:0], b, account, id)
		if f := s.fresh[b]; f != nil && !f.has(key) {
			continue
		}
		row, err := tx.Get(storeSeen, key)
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
	s.has[bucket] = true
	key := seenKey(buf[:0], bucket, account, id)
	if f := s.fresh[bucket]; f != nil {
		f.add(key)
	}
	tx.Put(storeSeen, key, binary.AppendVarint(nil, at))
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
	for b := range s.fresh {
		if b < s.newest/bucketMillis-2 {
			delete(s.fresh, b) // few events ask for so old a bucket
		}
	}
	// Buckets wholly out of the window, with one bucket of slack for events that are a little late.
	keep := (s.newest-s.window)/bucketMillis - 1
	for budget > 0 && s.oldest < keep {
		var old [][]byte
		prefix := []byte{}
		if s.oldest >= 0 {
			prefix = bucketKey(nil, s.oldest) // not from the start, where the deleted ones are
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
