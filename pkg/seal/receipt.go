package seal

import (
	"maps"
	"slices"
	"strings"
	"time"

	"databus/schemas"
	"databus/schemas/event"
)

// Keys of events that are not about one data key. The first part chooses the partition: what belongs to a shredding is in
// its account's, behind the revocations.
const (
	holders   = "_holders"
	databases = "_databases"
	shredMark = "shred."
)

func holderKey(name string) string             { return schemas.JoinKey(holders, name) }
func databaseKey(version string) string        { return schemas.JoinKey(databases, version) }
func shredKey(account, id string) string       { return schemas.JoinKey(account, shredMark+id) }
func receiptKey(account, id, by string) string { return schemas.JoinKey(account, shredMark+id, by) }

// Receipt says what became of a shredding.
type Receipt struct {
	// ID of the shredding.
	ID, Account string
	// Keys is how many keys it revoked; 0 where all were revoked before.
	Keys int64
	// At is when every holder had dropped them, or might not use them any more: since then nothing that they sealed can
	// be opened or added.
	At time.Time
	// Holders have said that they dropped the keys, Expired have said nothing until their lease was over.
	Holders, Expired []string
	// Remaining are the account's keys that seal records without keys of their own and were not revoked, where only some
	// records were meant: versions of them that such a key sealed, before or after they had their own, stay readable until
	// the account is shredded.
	Remaining []string
	// LogUntil is when compaction has removed the wrapped keys from keys.events at the latest, BackupsUntil when the last
	// backup of them is gone: whoever has such a copy and the key-encryption key can undo the shredding until then.
	LogUntil, BackupsUntil time.Time

	offset int64 // of its event, behind the revocations in the account's partition
}

// shredding is one that is going on.
type shredding struct {
	id, account string
	receipts    map[string]bool // holders that have dropped the keys
}

// shreds is what keys.events says beside the keys.
type shreds struct {
	open    map[string]*shredding // by the event's key
	results map[string]*Receipt
	holders map[string]bool
	swept   map[string][]int64 // by database version
}

func newShreds() shreds {
	return shreds{open: map[string]*shredding{}, results: map[string]*Receipt{}, holders: map[string]bool{}, swept: map[string][]int64{}}
}

func (s *shreds) put(ev *event.KeyEvent, offset int64) {
	key := shredKey(ev.Account, ev.ShredID)
	switch ev.Kind {
	case event.KeyEventKindShred:
		if s.open[key] == nil && s.results[key] == nil {
			s.open[key] = &shredding{id: ev.ShredID, account: ev.Account, receipts: map[string]bool{}}
		}
	case event.KeyEventKindReceipt:
		if open := s.open[key]; open != nil {
			open.receipts[ev.Holder] = true
		}
	case event.KeyEventKindShredded:
		delete(s.open, key)
		s.results[key] = &Receipt{ID: ev.ShredID, Account: ev.Account, Keys: ev.Keys, At: ev.At, Holders: ev.Holders, Expired: ev.Expired, Remaining: ev.Remaining,
			LogUntil: ev.LogUntil, BackupsUntil: ev.BackupsUntil, offset: offset}
	case event.KeyEventKindHolder:
		s.holders[ev.Holder] = true
	case event.KeyEventKindSwept:
		s.swept[ev.Holder] = ev.Positions
	}
}

// drop forgets an event; it returns the holder's name where it was one's.
func (s *shreds) drop(key string) string {
	first, rest, _ := strings.Cut(key, "/")
	switch first {
	case holders:
		delete(s.holders, rest)
		return rest
	case databases:
		delete(s.swept, rest)
	default:
		delete(s.open, key)
	}
	return ""
}

// unanswered are the shreddings to which a holder has said nothing.
func (s *shreds) unanswered(holder string) []*shredding {
	var list []*shredding
	for _, open := range s.open {
		if !open.receipts[holder] {
			list = append(list, open)
		}
	}
	return list
}

// missing are the holders that have said nothing to a shredding.
func (s *shreds) missing(open *shredding) []string {
	var names []string
	for name := range s.holders {
		if !open.receipts[name] {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Receipts returns those of an account's shreddings, the oldest first; an empty account means all.
func (k *Keyring) Receipts(account string) []Receipt {
	k.mu.RLock()
	defer k.mu.RUnlock()
	var list []Receipt
	for _, r := range k.shreds.results {
		if account == "" || r.Account == account {
			list = append(list, *r)
		}
	}
	slices.SortFunc(list, func(a, b Receipt) int { return a.At.Compare(b.At) })
	return list
}

// Holders are the processes that hold keys now, as far as they have not ended without saying so.
func (k *Keyring) Holders() []string {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return slices.Sorted(maps.Keys(k.shreds.holders))
}
