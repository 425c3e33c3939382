package story

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"databus/cmd/databus/internal/load"
	"databus/cmd/databus/internal/setup"
	"databus/pkg/identity"
)

// load sends all records through ingest's API.
func (s *story) load(ctx context.Context) (err error) {
	source, err := s.Source()
	if err != nil {
		return err
	}
	bar := s.Teller.Step("loading customer records", s.Total)
	begin := time.Now()
	o := load.Options{Client: s.api, Progress: bar.Add}
	if s.RestartServices {
		var sent atomic.Int64
		var once atomic.Bool
		restarted := make(chan error, 1)
		o.Progress = func(n int) {
			bar.Add(n)
			if sent.Add(int64(n)) >= int64(s.Total/2) && once.CompareAndSwap(false, true) {
				go func() { restarted <- s.restart() }()
			}
		}
		defer func() {
			if once.Load() {
				err = errors.Join(err, <-restarted)
			}
		}()
	}
	sum, err := load.Run(ctx, &sampling{Source: source, take: s.takeSample}, o)
	bar.Done()
	if err != nil {
		return err
	}
	s.out.Records, s.out.Refused, s.out.Took.Load = sum.Accepted, sum.Refused, time.Since(begin)
	for p, end := range sum.Ends {
		s.ends.add(p, end)
	}
	for account, n := range sum.ByAccount {
		s.wrote[account] += n
	}
	if sum.Accepted == 0 {
		return fmt.Errorf("all %d records were refused: %v", sum.Refused, sum.Problems)
	}
	s.Teller.Say("%d customer records loaded through ingest's API in %s, %d refused", sum.Accepted, seconds(s.out.Took.Load), sum.Refused)
	return nil
}

// restart stops and starts every service, one after the other.
func (s *story) restart() error {
	for _, name := range s.stack.Names() {
		if err := s.stack.Restart(name); err != nil {
			return err
		}
	}
	s.Teller.Say("every service was stopped and started meanwhile")
	return nil
}

// sampling remembers a record of the source.
type sampling struct {
	load.Source
	take func(load.Record)
}

func (p *sampling) Next() (load.Record, error) {
	r, err := p.Source.Next()
	if err == nil {
		p.take(r)
	}
	return r, err
}

// takeSample keeps the account's record with the least RecordID, so that the sample does not depend on order.
func (s *story) takeSample(r load.Record) {
	if r.Account == s.Account && (s.sample.RecordID == "" || r.RecordID < s.sample.RecordID) {
		s.sample = r
	}
}

// applied waits until the serving database has everything, and counts persons.
func (s *story) applied(ctx context.Context) error {
	if err := s.groupReached(ctx, setup.ApplierGroup(setup.FirstDatabase)); err != nil {
		return err
	}
	var err error
	if s.live, err = s.stack.Stores.Keyspace(setup.FirstKeyspace); err != nil {
		return err
	}
	persons, _, err := people(ctx, s.live)
	if err != nil {
		return err
	}
	s.out.Persons = persons
	s.Teller.Say("%d persons found", persons)
	return nil
}

// people counts the persons of a database, and digests who is whom: account, record, person, one line each, sorted.
func people(ctx context.Context, store identity.Store) (persons int64, digest string, err error) {
	fcids := map[string]bool{}
	var lines []string
	err = store.Scan(ctx, identity.ByKey, func(r *identity.Row) error {
		if !r.Deleted {
			fcids[r.FCID] = true
		}
		lines = append(lines, fmt.Sprintf("%s %s %v %s %s\n", r.Account, r.RecordKey, r.Deleted, r.FCID, r.PersonID))
		return nil
	})
	if err != nil {
		return 0, "", fmt.Errorf("scanning keyspace %s: %w", store.Keyspace(), err)
	}
	slices.Sort(lines)
	h := sha256.New()
	for _, l := range lines {
		h.Write([]byte(l))
	}
	return int64(len(fcids)), hex.EncodeToString(h.Sum(nil)), nil
}

// lookUp finds the sample by its three keys.
func (s *story) lookUp(ctx context.Context) error {
	found, err := s.api.Get(ctx, s.Account, s.sample.RecordID)
	if err != nil {
		return fmt.Errorf("by RecordID: %w", err)
	}
	byPerson, err := s.api.ByPerson(ctx, s.Account, found.PersonID)
	if err != nil {
		return fmt.Errorf("by PersonID: %w", err)
	}
	byFCID, err := s.api.ByFCID(ctx, s.Account, found.FCID)
	if err != nil {
		return fmt.Errorf("by FCID: %w", err)
	}
	s.out.Sample = Sample{RecordID: found.RecordID, PersonID: found.PersonID, FCID: found.FCID, ByPerson: len(byPerson), ByFCID: len(byFCID)}
	if found.RecordID != s.sample.RecordID || len(byPerson) == 0 || len(byPerson) != len(byFCID) {
		return fmt.Errorf("the three look-ups do not agree: %+v", s.out.Sample)
	}
	s.Teller.Say("record %s of %s found by RecordID, by PersonID %s and by FCID %s (%d records of that person)",
		found.RecordID, s.Account, found.PersonID, found.FCID, len(byPerson))
	return nil
}

// together counts the persons of a database, and digests which records are one person's, without the person's ids: under
// a graph built from evidence these depend on when an identifier was first seen, and so on append times.
func together(ctx context.Context, store identity.Store) (persons int64, digest string, err error) {
	members := map[string][]string{} // by FCID
	err = store.Scan(ctx, identity.ByKey, func(r *identity.Row) error {
		if !r.Deleted {
			members[r.FCID] = append(members[r.FCID], r.Account+" "+r.RecordKey)
		}
		return nil
	})
	if err != nil {
		return 0, "", fmt.Errorf("scanning keyspace %s: %w", store.Keyspace(), err)
	}
	lines := make([]string, 0, len(members))
	for _, records := range members {
		slices.Sort(records)
		lines = append(lines, strings.Join(records, ", ")+"\n")
	}
	slices.Sort(lines)
	h := sha256.New()
	for _, l := range lines {
		h.Write([]byte(l))
	}
	return int64(len(lines)), hex.EncodeToString(h.Sum(nil)), nil
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }
