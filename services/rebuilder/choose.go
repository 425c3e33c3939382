package rebuilder

import (
	"slices"
	"strings"
	"time"

	"databus/pkg/identity"
	"databus/schemas/event"
)

// chooser is pass 1 over a partition: it folds the versions of each record by the applier's rules without opening them.
//
// A version of which the key is revoked is a deleted one, so it is accepted like any other. Of the rest, opening is the one
// thing that can turn a version down which these rules accept, and a version that is turned down
// counts for nothing: not as the newest, and not as a recent request. So the chooser also notes which versions must
// open for its choice to be the applier's; pass 2 opens those, and when one does not, the record is chosen again
// without it.
type chooser struct {
	records map[recordKey]*candidate
	// only limits the choice to some records; nil: all.
	only map[recordKey]bool
	// dead are offsets of versions that are known not to open.
	dead map[int64]bool
	// invalid counts records that break the model.
	invalid int64

	accounts map[string]string
}

type recordKey struct{ account, key string }

// candidate is a record so far.
type candidate struct {
	newest int64 // offset of the newest accepted version, -1 while there is none
	recent identity.Recent
	// offsets are those of the versions in recent.
	offsets []int64
	// besides are further versions that must open: those that made another one a repeat or pushed one out of recent.
	besides []int64

	records, repeats, dead int64
}

func newChooser() *chooser {
	return &chooser{records: map[recordKey]*candidate{}, dead: map[int64]bool{}, accounts: map[string]string{}}
}

// again is a chooser for some of the records.
func (c *chooser) again(only map[recordKey]bool) *chooser {
	return &chooser{records: map[recordKey]*candidate{}, only: only, dead: c.dead, accounts: c.accounts}
}

func (c *chooser) intern(account string) string {
	if known, ok := c.accounts[account]; ok {
		return known
	}
	account = strings.Clone(account)
	c.accounts[account] = account
	return account
}

// add folds the next version. locked says that its data key does not exist.
func (c *chooser) add(in *identity.Input, locked bool) {
	if in.Validate() != nil {
		c.invalid++
		return
	}
	key := recordKey{in.Record.Account, in.Record.RecordKey}
	if c.only != nil && !c.only[key] {
		return
	}
	r := c.records[key]
	if r == nil {
		r = &candidate{newest: -1}
		c.records[recordKey{c.intern(key.account), strings.Clone(key.key)}] = r // else each would keep its whole record
	}
	r.records++
	if locked || c.dead[in.Offset] {
		r.dead++
		return
	}
	r.add(in.Record, in.Offset, in.AppendTime)
}

func (r *candidate) add(rec *event.DatabusRecord, offset int64, at time.Time) {
	next, repeat := r.recent.Accept(rec.RequestID, at)
	if repeat {
		r.repeats++
		alone, _ := identity.Recent(nil).Accept(rec.RequestID, at) // its hash
		for i, seen := range r.recent {
			if seen.ID == alone[0].ID {
				r.need(r.offsets[i])
			}
		}
		return
	}
	if len(r.recent) == identity.RecentVersions && len(next) == identity.RecentVersions {
		for _, o := range r.offsets { // any of them, dead, would have left room for the oldest
			r.need(o)
		}
	}
	offsets := make([]int64, 0, len(next))
	kept := next[:len(next)-1] // in the old order
	for i, seen := range r.recent {
		if len(offsets) < len(kept) && kept[len(offsets)] == seen {
			offsets = append(offsets, r.offsets[i])
		}
	}
	r.recent, r.offsets, r.newest = next, append(offsets, offset), offset
}

func (r *candidate) need(offset int64) {
	if i, found := slices.BinarySearch(r.besides, offset); !found {
		r.besides = slices.Insert(r.besides, i, offset)
	}
}

// opens says whether the choice rests on the version at an offset.
func (r *candidate) opens(offset int64) bool {
	if slices.Contains(r.offsets, offset) {
		return true
	}
	_, found := slices.BinarySearch(r.besides, offset)
	return found
}
