package identity

import (
	"context"
	"errors"
	"fmt"

	"databus/pkg/seal"
)

// Sweep carries out revocations in a database: of rows that are sealed with a revoked key a marker is left, and nothing
// in the tables by person and by FCID. It returns how many records it shredded. It must not begin before every holder of
// keys knows of the revocations (seal.Keyring.Unswept sees to that), and may run beside the database's applier, several
// times, and in several places at once: a marker is final for its version, and a later version wins over it.
//
// Where all revocations are about single records, only these are read. Otherwise all three tables are scanned, which also
// finds rows by person and by FCID that a crash in the middle of a change has left.
func Sweep(ctx context.Context, store Store, rows Rower, revocations []seal.Revocation) (records int64, err error) {
	s := &sweeper{store: store, revoked: (&Applier{Rows: rows}).revocations()}
	accounts := map[string]bool{}
	for _, r := range revocations {
		if r.RecordKey == "" {
			accounts[r.Account] = true
		}
	}
	for _, r := range revocations {
		if r.RecordKey == "" || accounts[r.Account] {
			continue
		}
		row, ok, err := store.Get(ctx, r.Account, r.RecordKey)
		if err == nil && ok {
			err = s.row(ctx, &row, false)
		}
		if err != nil {
			return s.records, fmt.Errorf("sweeping keyspace %s: %w", store.Keyspace(), err)
		}
	}
	if len(accounts) > 0 {
		for _, t := range []Table{ByKey, ByPerson, ByFCID} {
			err := store.Scan(ctx, t, func(row *Row) error {
				if !accounts[row.Account] {
					return nil
				}
				return s.row(ctx, row, t.place != nil)
			})
			if err = errors.Join(err, s.flush(ctx)); err != nil {
				return s.records, fmt.Errorf("sweeping %s in keyspace %s: %w", t.Name, store.Keyspace(), err)
			}
		}
	}
	return s.records, s.flush(ctx)
}

type sweeper struct {
	store   Store
	revoked func(context.Context, *Row) (bool, error)
	batch   []Change
	records int64
}

const sweepBatch = 500

// row shreds a row if its key is revoked; stray: of what the table by key says nothing, so only this row is removed.
func (s *sweeper) row(ctx context.Context, row *Row, stray bool) error {
	is, err := s.revoked(ctx, row)
	if err != nil || !is {
		return err
	}
	s.batch = append(s.batch, Change{New: row.Marker(), Left: []Place{row.Place()}, Remove: stray})
	if !stray {
		s.records++
	}
	if len(s.batch) < sweepBatch {
		return nil
	}
	return s.flush(ctx)
}

func (s *sweeper) flush(ctx context.Context) error {
	if len(s.batch) == 0 {
		return nil
	}
	err := s.store.Apply(ctx, s.batch)
	s.batch = s.batch[:0]
	return err
}
