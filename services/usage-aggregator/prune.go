package usageaggregator

import (
	"time"

	"databus/pkg/stream"
)

// pruning deletes the counts of periods that ended long ago, a few rows in each transaction, once a day of append time.
// No event can count to them any more: refused sees to that. Only events cause it, like every change of state.
type pruning struct {
	keep    time.Duration // 0 turns it off
	newest  int64         // append time of the newest event, microseconds
	day     int64         // of the last walk over the rows, in days since 1970
	walking bool
	from    []byte // where the walk goes on
	cutoff  int64  // periods that ended up to here go, microseconds
}

const (
	dayMicros = int64(24 * time.Hour / time.Microsecond)
	pruneRows = 500 // looked at in one transaction
)

// over walks on and returns the keys of rows to delete. Rows that the transaction has changed are not among them.
func (p *partition) over(tx *stream.Tx) ([][]byte, error) {
	w := &p.pruning
	if w.keep == 0 || w.newest == 0 {
		return nil, nil
	}
	if day := w.newest / dayMicros; !w.walking && day > w.day {
		// A day of slack, because a leader change may turn append time back a little.
		*w = pruning{keep: w.keep, newest: w.newest, day: day, walking: true, cutoff: (day-1)*dayMicros - w.keep.Microseconds()}
	}
	if !w.walking {
		return nil, nil
	}
	var old [][]byte
	var failed error
	changed := map[string]bool{}
	for _, at := range p.order {
		c := at.count()
		changed[countKey(at.account.name, p.names.of(c.pack), p.names.of(c.period))] = true
	}
	rows := 0
	err := tx.ScanFrom(storeCounts, nil, w.from, func(key, row []byte) bool {
		if rows++; rows > pruneRows {
			w.from = append([]byte{}, key...)
			return false
		}
		if failed = p.read(tx, row); failed != nil {
			return false
		}
		if end := p.row.PeriodEnd; end != nil && end.UnixMicro() <= w.cutoff && !changed[string(key)] {
			old = append(old, append([]byte{}, key...))
			if p.row.Provisional { // an answer that comes now finds nothing
				tx.Delete(storeAsked, old[len(old)-1])
			}
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	if failed != nil {
		return nil, failed
	}
	w.walking = rows > pruneRows
	return old, nil
}

// prune deletes rows, behind those that the transaction has written.
func (p *partition) prune(tx *stream.Tx, old [][]byte) {
	if len(old) > 0 {
		p.forget() // the deleted ones may be among what is kept
	}
	for _, key := range old {
		tx.Delete(storeCounts, key)
	}
}
