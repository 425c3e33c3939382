package usageaggregator

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/stream"
	"databus/pkg/usage"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

const (
	maxTerms = 10_000 // accounts that a partition keeps parsed
	rowBytes = 400    // about what a row takes that is kept with them
	fewRows  = 64     // of one account: they are looked through one by one

	chunkBytes = 32 << 10
	roomy      = 512 // bytes: most values fit
)

// partition is what one partition remembers between calls. The runtime throws it away with every aborted transaction.
type partition struct {
	s        *Service
	accounts map[string]*account
	rows     int      // kept in accounts
	order    []*count // what the open transaction has changed, in order of first change
	seen     seen
	pruning  pruning
	first    *int64 // see since
	known    int64  // offset of the first event whose id is known; see since

	event event.UsageEvent // reused, as the row
	row   event.UsageCount
	room  []byte // for values; a chunk is shared by many and never used again
}

// account is what an event of an account is counted by.
type account struct {
	name   string
	home   bool         // the partition is the account's
	terms  *usage.Terms // nil without a contract
	bounds usage.AccountBounds
	// rows are the account's counts that were changed lately, as they are now: only this partition changes them. All those that
	// the open transaction has changed are among them.
	rows []*count
	// slots save most events the making of periods and keys.
	slots []slot
}

// slot says what the events of a pack count to that happened in a span of time, microseconds since 1970.
type slot struct {
	pack        string
	from, until int64 // until is not in it
	counts      []*count
	used        bool // see start
}

// row returns a count from the account's rows, or nil.
func (a *account) row(pack, period string) *count {
	for _, c := range a.rows {
		if c.period == period && c.pack == pack {
			return c
		}
	}
	return nil
}

func (a *account) slot(pack string, at int64) *slot {
	for i := range a.slots {
		if s := &a.slots[i]; s.from <= at && at < s.until && s.pack == pack {
			return s
		}
	}
	return nil
}

// forget lets go of everything that can be read again. No row may be changed and not written.
func (p *partition) forget() {
	p.rows = 0
	clear(p.accounts)
}

func newPartition(s *Service) *partition {
	return &partition{s: s, accounts: map[string]*account{}, seen: newSeen(s.cfg.DedupWindow.Milliseconds()), pruning: pruning{keep: s.cfg.KeepEnded}}
}

// read decodes a stored count.
func (p *partition) read(tx *stream.Tx, row []byte, c *count) error {
	p.row = event.UsageCount{}
	err := p.s.counts.Decode(tx.Context(), row, &p.row)
	if err == nil {
		c.load(&p.row)
		return nil
	}
	if errors.Is(err, codec.ErrUnavailable) || errors.Is(err, codec.ErrUnknownSchema) {
		return err
	}
	return fmt.Errorf("reading a stored count: %v; run the newer program or restore the state", err) // no error of the event's
}

// onContract stores a contract, unless an equal or newer version is known. A tombstone ends it.
func (p *partition) onContract(tx *stream.Tx, rec *kgo.Record) error {
	name := string(rec.Key)
	if !schemas.ValidAccount(name) {
		return stream.Poison("contract: the record's key is no account id")
	}
	known, err := p.account(tx, name)
	if err != nil {
		return err
	}
	if rec.Value == nil {
		if known.terms == nil {
			return nil
		}
		tx.Delete(storeContracts, rec.Key)
		return p.change(tx, name, known, nil)
	}
	var c event.Contract
	if err = p.s.contracts.Decode(tx.Context(), rec.Value, &c); err != nil {
		return err
	}
	terms, err := usage.NewTerms(c)
	if err != nil {
		return stream.Poison("contract: " + err.Error())
	}
	if c.Account != name {
		return stream.Poison("contract: the record's key is not the account")
	}
	if c.Version <= known.terms.Version() {
		return nil
	}
	row, err := p.s.stored.Append(nil, &c)
	if err != nil {
		return err
	}
	tx.Put(storeContracts, rec.Key, row)
	return p.change(tx, name, known, terms)
}

func (p *partition) account(tx *stream.Tx, name string) (*account, error) {
	if a, ok := p.accounts[name]; ok {
		return a, nil
	}
	row, err := tx.Get(storeContracts, []byte(name))
	if err != nil {
		return nil, err
	}
	a := &account{name: strings.Clone(name), home: schemas.Partition(schemas.UsageEvents, []byte(name), tx.Partitions()) == tx.Partition()}
	if row != nil {
		var c event.Contract
		if err := p.s.stored.Decode(row, &c); err != nil {
			return nil, fmt.Errorf("reading a stored contract: %w", err)
		}
		if a.terms, err = usage.NewTerms(c); err != nil {
			return nil, fmt.Errorf("reading a stored contract: %w", err)
		}
	}
	if a.bounds, err = p.bounds(tx, name); err != nil {
		return nil, err
	}
	p.accounts[a.name] = a
	return a, nil
}

// onEvent counts an event. Whatever can refuse it comes before the first change, but that its id has occurred: whoever reads
// the topic again cannot know that a sum was too large for it then. The first event of a partition always fits.
func (p *partition) onEvent(tx *stream.Tx, rec *kgo.Record) error {
	acct, err := p.accept(tx, rec)
	if err != nil {
		return err
	}
	e := &p.event
	if p.first == nil {
		if err := p.begin(tx, rec); err != nil {
			return err
		}
		if acct, err = p.account(tx, e.Account); err != nil {
			return err
		}
	}
	p.pruning.newest = max(p.pruning.newest, rec.Timestamp.UnixMicro())
	repeated, err := p.seen.check(tx, e.Account, e.EventID, rec.Timestamp.UnixMilli())
	if err != nil {
		return err
	}
	if repeated {
		p.s.duplicates.Inc()
		return nil
	}
	slot := acct.slot(e.Pack, e.OccurredAt.UnixMicro())
	if slot == nil {
		if slot, err = p.slot(tx, acct); err != nil {
			return err
		}
	}
	for _, c := range slot.counts {
		if !c.fits(e) {
			return stream.Poison("event: a sum of its counts would be beyond what can be added up; it is not counted, and its id has been used: " +
				"correct the count, then send it under another id")
		}
	}
	if !slot.used {
		if err := p.start(tx, acct, slot, rec); err != nil {
			return err
		}
	}
	appended := rec.Timestamp.UnixMicro()
	for _, c := range slot.counts {
		if !c.touched {
			c.touched, c.fresh = true, false
			p.order = append(p.order, c)
		}
		c.add(e, appended)
	}
	return nil
}

// accept decodes an event into p.event, whose strings are parts of the record, and refuses what must not be counted.
func (p *partition) accept(tx *stream.Tx, rec *kgo.Record) (*account, error) {
	e := &p.event
	*e = event.UsageEvent{}
	if err := p.s.events.DecodeShared(tx.Context(), rec.Value, e); err != nil {
		return nil, err
	}
	if why := p.s.refused(e, rec); why != "" {
		return nil, stream.Poison("event: " + why)
	}
	acct, err := p.account(tx, e.Account)
	if err == nil && !acct.home {
		err = stream.Poison("event: another partition is its account's: the producer does not partition as the catalogue says (murmur2 of the key)")
	}
	return acct, err
}

// again remembers the ids of events that were processed before.
func (p *partition) again(tx *stream.Tx, recs []*kgo.Record) error {
	for _, rec := range recs {
		e := &p.event
		*e = event.UsageEvent{}
		err := p.s.events.DecodeShared(tx.Context(), rec.Value, e)
		switch {
		case errors.Is(err, codec.ErrUnavailable) || errors.Is(err, codec.ErrUnknownSchema):
			return err
		case err != nil || p.s.refused(e, rec) != "":
			continue // it is a dead letter
		case schemas.Partition(schemas.UsageEvents, rec.Key, tx.Partitions()) != tx.Partition():
			continue
		}
		if _, err := p.seen.check(tx, e.Account, e.EventID, rec.Timestamp.UnixMilli()); err != nil {
			return err
		}
	}
	return p.seen.finish(tx)
}

// refused says why an event must not be counted, and "" where it may. It depends on the record alone: whoever reads the
// topic again comes to the same answer.
func (s *Service) refused(e *event.UsageEvent, rec *kgo.Record) string {
	if err := usage.CheckEvent(e, rec.Timestamp); err != nil {
		return err.Error()
	}
	if e.Account != string(rec.Key) {
		return "the record's key is not the account" // its account's rows may belong to another partition
	}
	if s.cfg.KeepEnded > 0 && e.OccurredAt.Before(rec.Timestamp.Add(-s.cfg.KeepEnded)) {
		return "it happened longer ago than counts are kept (keep_ended)"
	}
	return ""
}

// start does what the first event of a slot causes beside its counts.
func (p *partition) start(tx *stream.Tx, acct *account, s *slot, rec *kgo.Record) error {
	for _, c := range s.counts {
		c.version = acct.terms.Version() // the contract's latest version begins other slots
		if c.fresh && c.incomplete && p.s.cfg.History.Enabled {
			if err := p.ask(tx, acct, c, rec); err != nil {
				return err
			}
		}
	}
	s.used = true
	if acct.bounds.Miss(s.pack, p.event.OccurredAt) {
		return p.keepBounds(tx, acct.name, &acct.bounds)
	}
	return nil
}

// slot finds out what an event counts to, and keeps it for the next one. It changes nothing: the event may yet be refused.
func (p *partition) slot(tx *stream.Tx, acct *account) (*slot, error) {
	p.trim(acct) // not while rows are put into the slot: it would have rows that the account does not
	e := &p.event
	at := e.OccurredAt.UnixMicro()
	s := slot{pack: strings.Clone(e.Pack), from: math.MinInt64, until: math.MaxInt64}
	cut := func(moment int64) { // what the event counts to changes there
		if at < moment {
			s.until = min(s.until, moment)
		} else {
			s.from = max(s.from, moment)
		}
	}
	var failed error
	acct.terms.Counted(s.pack, e.OccurredAt, func(pack string, period usage.Period) {
		if failed != nil {
			return
		}
		set := acct.bounds.Of(pack, period.Kind)
		period.ID = usage.WithBounds(period.ID, set.Number)
		var c *count
		if c, failed = p.count(tx, acct, pack, period); failed != nil {
			return
		}
		c.incomplete = !set.Complete(period)
		cut(period.Start.UnixMicro())
		if !period.End.IsZero() {
			cut(period.End.UnixMicro())
		}
		s.counts = append(s.counts, c)
	})
	if failed != nil {
		return nil, failed
	}
	for i := range acct.bounds.Rules {
		if r := &acct.bounds.Rules[i]; r.Pack == s.pack || r.Pack == usage.AllPacks {
			if cut(r.Starts); r.Ends != 0 {
				cut(r.Ends)
			}
		}
	}
	if len(acct.slots) == fewRows {
		acct.slots = nil
	}
	acct.slots = append(acct.slots, s)
	return &acct.slots[len(acct.slots)-1], nil
}

// count returns the row of a period, a fresh one where there is none. The caller changes it.
func (p *partition) count(tx *stream.Tx, acct *account, pack string, period usage.Period) (*count, error) {
	if c := acct.row(pack, period.ID); c != nil {
		return c, nil
	}
	c := &count{account: acct, pack: shared(pack), period: shared(period.ID)}
	row, err := tx.Get(storeCounts, []byte(c.key()))
	if err != nil {
		return nil, err
	}
	if c.fresh = row == nil; !c.fresh {
		if err := p.read(tx, row, c); err != nil {
			return nil, err
		}
	}
	c.of(period, acct.terms.Version())
	p.keep(acct, c)
	return c, nil
}

// keep puts a count among the account's rows.
func (p *partition) keep(acct *account, c *count) {
	acct.rows = append(acct.rows, c)
	p.rows++
}

// trim lets go of the account's rows if there are many. Whoever holds one must not use it any more.
func (p *partition) trim(acct *account) {
	if len(acct.rows) < fewRows {
		return
	}
	// Those that are changed must stay until they are written.
	before := len(acct.rows)
	acct.rows = slices.DeleteFunc(acct.rows, func(c *count) bool { return !c.touched })
	if gone := before - len(acct.rows); gone > 0 {
		p.rows -= gone
		acct.slots = nil
	}
}

// pending is what finish will write, and memory that it will free: ids are collected until then.
func (p *partition) pending() int { return len(p.order) + p.seen.collected()/idsOfRow }

// finish writes every count that the transaction has changed, once, which produces it.
func (p *partition) finish(tx *stream.Tx) error {
	// Before rows are written: a walk has to sort those that the transaction has written.
	over, err := p.over(tx)
	if err != nil {
		return err
	}
	for _, c := range p.order {
		if cap(p.room)-len(p.room) < roomy {
			p.room = make([]byte, 0, chunkBytes)
		}
		c.stored(&p.row)
		value, err := p.s.counts.Append(tx.Context(), p.room[len(p.room):], &p.row)
		if err != nil {
			return err
		}
		if n := len(p.room) + len(value); n <= cap(p.room) { // else it got memory of its own
			p.room = p.room[:n]
		}
		tx.Put(storeCounts, []byte(c.key()), value[:len(value):len(value)])
		c.touched = false
	}
	clear(p.order)
	p.order = p.order[:0]
	p.prune(tx, over)
	if p.rows > p.s.cfg.CacheBytes/rowBytes || len(p.accounts) > maxTerms {
		p.forget()
	}
	return p.seen.finish(tx)
}
