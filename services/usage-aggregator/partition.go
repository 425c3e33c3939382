package usageaggregator

import (
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/stream"
	"databus/pkg/usage"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

const (
	chunkBytes = 32 << 10
	roomy      = 512 // bytes: most values fit
)

// partition is what one partition remembers between calls. The runtime throws it away with every aborted transaction.
type partition struct {
	s        *Service
	accounts map[string]*account
	names    names
	bytes    int     // about what the accounts take
	number   int     // of the transaction, for this object
	open     []place // of the slots that the transaction has yet to settle, in order of the first event
	order    []place // of the counts that it has changed, in order of first change
	seen     seen
	pruning  pruning
	first    *int64 // see since
	known    int64  // offset of the first event whose id is known; see since

	event event.UsageEvent // reused, as the row and the key
	row   event.UsageCount
	key   []byte
	chunk []byte // for values; it is shared by many and never used again
}

// forget lets go of everything that can be read again. No row may be changed and not written.
func (p *partition) forget() {
	p.bytes, p.names = 0, newNames()
	clear(p.accounts)
}

func newPartition(s *Service) *partition {
	return &partition{s: s, accounts: map[string]*account{}, names: newNames(), number: 1, seen: newSeen(s.cfg.DedupWindow.Milliseconds()), pruning: pruning{keep: s.cfg.KeepEnded}}
}

// read decodes a stored count into p.row.
func (p *partition) read(tx *stream.Tx, row []byte) error {
	p.row = event.UsageCount{}
	err := p.s.counts.Decode(tx.Context(), row, &p.row)
	if err == nil {
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
	a := &account{name: strings.Clone(name), room: usage.SumRoom(0), home: schemas.Partition(schemas.UsageEvents, []byte(name), tx.Partitions()) == tx.Partition()}
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
	p.weigh(a)
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
	slot, ok := acct.slot(&p.names, e)
	if !ok {
		if slot, err = p.slot(tx, acct); err != nil {
			return err
		}
	}
	more := sumsOf(e)
	if !p.fits(acct, slot, &more) {
		return stream.Poison("event: a sum of its counts would be beyond what can be added up; it is not counted, and its id has been used: " +
			"correct the count, then send it under another id")
	}
	if !acct.slots[slot].used {
		if err := p.start(tx, acct, &acct.slots[slot], rec); err != nil {
			return err
		}
	}
	p.add(acct, slot, &more, rec.Timestamp.UnixMicro())
	return nil
}

// fits says whether no sum of a slot's counts gets too large by an event.
func (p *partition) fits(acct *account, slot int32, more *sums) bool {
	if more.size() <= acct.room {
		return true
	}
	p.settle()
	if acct.measured != p.number { // all rows are looked at once in a transaction, however often there is no room
		acct.measured = p.number
		if acct.measure(); more.size() <= acct.room {
			return true
		}
	}
	s := &acct.slots[slot]
	for _, row := range acct.rowsOf(s) {
		c := &acct.rows[row]
		if !c.takes(more) || s.provider != noName && !acct.sharesTake(&p.names, c, p.names.of(s.provider), more) {
			return false
		}
	}
	acct.room = more.size() // for this event alone: others may move the sums the other way
	return true
}

// add counts an event that fits, appended at a moment in microseconds since 1970.
func (p *partition) add(acct *account, slot int32, more *sums, appended int64) {
	s := &acct.slots[slot]
	if !s.open {
		s.open, s.sums, s.updated = true, sums{}, 0
		p.open = append(p.open, place{acct, slot})
		for _, row := range acct.rowsOf(s) {
			p.touch(acct, row)
		}
	}
	acct.room -= more.size()
	s.add(more)
	s.updated = max(s.updated, appended)
}

// weigh takes note of what an account takes in memory now.
func (p *partition) weigh(a *account) {
	n := a.bytes()
	p.bytes += n - a.weighed
	a.weighed = n
}

// touch notes that a row will be written.
func (p *partition) touch(acct *account, row int32) {
	if c := &acct.rows[row]; !c.touched {
		c.touched, c.fresh = true, false
		p.order = append(p.order, place{acct, row})
	}
}

// settle adds what the slots have to the rows.
func (p *partition) settle() {
	for _, at := range p.open {
		acct, s := at.account, at.slot()
		for _, row := range acct.rowsOf(s) {
			c := &acct.rows[row]
			c.add(&s.sums)
			c.updated = max(c.updated, s.updated)
			if s.provider != noName {
				acct.share(&p.names, c, s.provider).add(&s.sums)
			}
		}
		s.open = false
	}
	clear(p.open) // for the garbage collector
	p.open = p.open[:0]
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
	for _, row := range acct.rowsOf(s) {
		c := &acct.rows[row]
		c.version = acct.terms.Version() // the contract's latest version begins other slots
		if c.fresh && c.incomplete && p.s.cfg.History.Enabled {
			if err := p.ask(tx, acct, c, rec); err != nil {
				return err
			}
		}
	}
	s.used = true
	if acct.bounds.Miss(p.event.Pack, p.event.OccurredAt) {
		return p.keepBounds(tx, acct.name, &acct.bounds)
	}
	return nil
}

// slot finds out what an event counts to, and keeps it for the next one. No sum changes: the event may yet be refused.
func (p *partition) slot(tx *stream.Tx, acct *account) (int32, error) {
	if len(acct.slots) == fewSlots {
		p.settle()
		acct.dropSlots()
	}
	e := &p.event
	at := e.OccurredAt.UnixMicro()
	s := slot{pack: p.names.number(e.Pack), from: math.MinInt64, until: math.MaxInt64}
	if e.Provider != nil {
		s.provider = p.names.number(*e.Provider)
	}
	cut := func(moment int64) { // what the event counts to changes there
		if at < moment {
			s.until = min(s.until, moment)
		} else {
			s.from = max(s.from, moment)
		}
	}
	var counted []int32
	var failed error
	acct.terms.Counted(e.Pack, e.OccurredAt, func(pack string, period usage.Period) {
		if failed != nil {
			return
		}
		set := acct.bounds.Of(pack, period.Kind)
		period.ID = usage.WithBounds(period.ID, set.Number)
		var row int32
		if row, failed = p.count(tx, acct, pack, period); failed != nil {
			return
		}
		acct.rows[row].incomplete = !set.Complete(period)
		cut(period.Start.UnixMicro())
		if !period.End.IsZero() {
			cut(period.End.UnixMicro())
		}
		counted = append(counted, row)
	})
	if failed != nil {
		return 0, failed
	}
	for i := range acct.bounds.Rules {
		if r := &acct.bounds.Rules[i]; r.Pack == e.Pack || r.Pack == usage.AllPacks {
			if cut(r.Starts); r.Ends != 0 {
				cut(r.Ends)
			}
		}
	}
	return acct.keepSlot(s, counted), nil
}

// count returns the row of a period, a fresh one where there is none. A period of an id has the same bounds under all terms.
func (p *partition) count(tx *stream.Tx, acct *account, pack string, period usage.Period) (row int32, err error) {
	row, ok, err := p.find(tx, acct, pack, period.ID)
	if err != nil {
		return 0, err
	}
	if !ok {
		row = acct.keep(count{pack: p.names.number(pack), period: p.names.number(period.ID), fresh: true})
	}
	acct.rows[row].of(period)
	return row, nil
}

// find returns a row, which is read if need be.
func (p *partition) find(tx *stream.Tx, acct *account, pack, period string) (row int32, ok bool, err error) {
	if row, ok = acct.row(p.names.number(pack), p.names.number(period)); ok {
		return row, true, nil
	}
	stored, err := tx.Get(storeCounts, []byte(countKey(acct.name, pack, period)))
	if err != nil || stored == nil {
		return 0, false, err
	}
	if err = p.read(tx, stored); err != nil {
		return 0, false, err
	}
	return acct.load(&p.names, &p.row), true, nil
}

// pending is what finish will write, and memory that it will free: ids are collected until then.
func (p *partition) pending() int { return len(p.order) + p.seen.added/idsOfRow }

// finish writes every count that the transaction has changed, once, which produces it.
func (p *partition) finish(tx *stream.Tx) error {
	// Before rows are written: a walk has to sort those that the transaction has written.
	over, err := p.over(tx)
	if err != nil {
		return err
	}
	p.settle()
	for _, at := range p.order {
		if cap(p.chunk)-len(p.chunk) < roomy {
			p.chunk = make([]byte, 0, chunkBytes)
		}
		c := at.count()
		at.account.store(&p.names, c, &p.row)
		value, err := p.s.counts.Append(tx.Context(), p.chunk[len(p.chunk):], &p.row)
		if err != nil {
			return err
		}
		if n := len(p.chunk) + len(value); n <= cap(p.chunk) { // else it got memory of its own
			p.chunk = p.chunk[:n]
		}
		p.key = schemas.AppendKey(p.key[:0], p.row.Account, p.row.Pack, p.row.Period)
		tx.Put(storeCounts, p.key, value[:len(value):len(value)])
		c.touched = false
	}
	for _, at := range p.order {
		if len(at.account.rows) >= fewRows {
			at.account.dropRows()
		}
		p.weigh(at.account)
	}
	clear(p.order)
	p.order = p.order[:0]
	p.number++
	p.prune(tx, over)
	if p.bytes+p.names.bytes > p.s.cfg.CacheBytes || len(p.accounts) > maxAccounts {
		p.forget()
	}
	return p.seen.finish(tx)
}
