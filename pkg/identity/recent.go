package identity

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"time"
)

// A request id is remembered with its record for at most so many accepted versions and so long in append time.
const (
	RecentVersions = 16
	RecentWindow   = 24 * time.Hour
)

// Recent holds the request ids of a record's last accepted versions, oldest first. It is a column of the record's row,
// so that whoever reads the log, from wherever, knows the same repeats. Values are immutable.
type Recent []Seen

// Seen is an accepted request id: the first half of its SHA-256, and its append time in milliseconds since 1970 UTC.
type Seen struct {
	ID [16]byte
	At int64
}

// Accept says whether a version is a repeat of a recent one, and otherwise returns the list with it. A repeat changes
// nothing. This is the one rule for repeats; it depends on the record's versions and their append times alone.
func (r Recent) Accept(requestID string, appendTime time.Time) (Recent, bool) {
	sum := sha256.Sum256([]byte(requestID))
	now := Seen{ID: [16]byte(sum[:16]), At: appendTime.UnixMilli()}
	oldest := now.At - RecentWindow.Milliseconds()
	next := make(Recent, 0, min(len(r)+1, RecentVersions))
	for _, s := range r {
		if s.At < oldest {
			continue
		}
		if s.ID == now.ID {
			return r, true
		}
		next = append(next, s)
	}
	if len(next) == RecentVersions {
		next = slices.Delete(next, 0, 1)
	}
	return append(next, now), false
}

const seenSize = 24

// Bytes is the column's form: 24 bytes an id, its hash and its time (big endian).
func (r Recent) Bytes() []byte {
	if len(r) == 0 {
		return nil
	}
	b := make([]byte, 0, len(r)*seenSize)
	for _, s := range r {
		b = append(b, s.ID[:]...)
		b = binary.BigEndian.AppendUint64(b, uint64(s.At))
	}
	return b
}

// ParseRecent reads what Bytes wrote.
func ParseRecent(b []byte) (Recent, error) {
	if len(b)%seenSize != 0 || len(b) > RecentVersions*seenSize {
		return nil, fmt.Errorf("recent request ids: %d bytes are no list of at most %d", len(b), RecentVersions)
	}
	var r Recent
	for ; len(b) > 0; b = b[seenSize:] {
		r = append(r, Seen{ID: [16]byte(b), At: int64(binary.BigEndian.Uint64(b[16:]))})
	}
	return r, nil
}
