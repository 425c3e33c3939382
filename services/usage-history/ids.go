package usagehistory

import (
	"crypto/sha256"
	"errors"
)

// ids are the event ids of the accounts that are asked for, with the append times of their newest occurrences, of about one window.
type ids struct {
	window int64 // ms; 0: nothing is a repeat
	most   int
	// An id is in the newer map if it occurred since began. Both together hold more than a window.
	began        int64
	newer, older map[id]occurrence
}

// id is 128 bits of the SHA-256 of account and event id: among 10^12 ids the chance that any two have the same is about 10^-15.
type id [16]byte

func idOf(account, eventID string) id {
	h := sha256.Sum256([]byte(account + "/" + eventID))
	return id(h[:16])
}

// occurrence is when an id occurred last, ms since 1970: at all, and where the stream has read it; 0 for never.
type occurrence struct{ last, read int64 }

var errTooMany = errors.New("more event ids in one window than max_ids")

func newIDs(window int64, most int) *ids {
	return &ids{window: window, most: most, newer: map[id]occurrence{}}
}

// check says whether the id occurred within the window before at, ms since 1970, and whether it did so among what the stream
// has read; then it remembers this occurrence.
func (s *ids) check(i id, at int64, read bool) (repeated, known bool, err error) {
	if s.window == 0 {
		return false, false, nil
	}
	at = max(at, 1)
	// A change of leaders may turn append time back a little: keep more than the window.
	if at-s.began > s.window+s.window/4+60_000 {
		s.began, s.older, s.newer = at, s.newer, map[id]occurrence{}
	}
	o, ok := s.newer[i]
	if !ok {
		o = s.older[i]
	}
	repeated = o.last != 0 && at-o.last < s.window
	known = o.read != 0 && at-o.read < s.window
	o.last = max(o.last, at)
	if read {
		o.read = max(o.read, at)
	}
	if s.newer[i] = o; len(s.newer)+len(s.older) > s.most {
		return false, false, errTooMany
	}
	return repeated, known, nil
}
