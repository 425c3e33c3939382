package usageaggregator

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/stream"
	"databus/pkg/usage"
	"databus/schemas"
	"databus/schemas/event"
)

const (
	maxTerms = 10_000 // accounts that a partition keeps parsed
	rowBytes = 400    // about what a row takes that is kept with them
	fewRows  = 64     // of one account: they are looked through one by one
)

// partition is what one partition remembers between calls. The runtime throws it away with every aborted transaction.
type partition struct {
	s        *Service
	accounts map[string]*account
	touched  map[string]*count // counts that the open transaction has changed, by key
	order    []*count          // the same in order of first change
	seen     seen
	pruning  pruning
	event    event.UsageEvent
	first    *int64 // see since
	rows     int    // in accounts
	value    event.UsageCount
}

// account is what an event of an account is counted by.
type account struct {
	terms  *usage.Terms // nil without a contract
	bounds usage.AccountBounds
	// rows are the account's counts that were changed lately, as they are now: only this partition changes them. They save
	// most events the making of keys, and most transactions the reading of rows.
	rows []*count
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

// forgetRows lets go of all rows that are kept. Those of the open transaction stay in touched.
func (p *partition) forgetRows() {
	for _, a := range p.accounts {
		a.rows = nil
	}
	p.rows = 0
}

func newPartition(s *Service) *partition {
	return &partition{s: s, accounts: map[string]*account{}, touched: map[string]*count{}, seen: newSeen(s.cfg.DedupWindow), pruning: pruning{keep: s.cfg.KeepEnded}}
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
	a := &account{}
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
	if len(p.accounts) >= maxTerms {
		p.rows = 0
		clear(p.accounts)
	}
	p.accounts[name] = a
	return a, nil
}

// onEvent counts an event. Whatever can refuse it comes before the first change.
func (p *partition) onEvent(tx *stream.Tx, rec *kgo.Record) error {
	e := &p.event
	*e = event.UsageEvent{}
	if err := p.s.events.Decode(tx.Context(), rec.Value, e); err != nil {
		return err
	}
	if why := p.s.refused(e, rec); why != "" {
		return stream.Poison("event: " + why)
	}
	if err := p.begin(tx, rec); err != nil {
		return err
	}
	p.pruning.newest = max(p.pruning.newest, rec.Timestamp.UnixMicro())
	acct, err := p.account(tx, e.Account)
	if err != nil {
		return err
	}
	repeated, err := p.seen.check(tx, e.Account, e.EventID, rec.Timestamp.UnixMilli())
	if err != nil {
		return err
	}
	if repeated {
		p.s.duplicates.Inc()
		return nil
	}
	var failed error
	acct.terms.Counted(e.Pack, e.OccurredAt, func(pack string, period usage.Period) {
		if failed != nil {
			return
		}
		set := acct.bounds.Of(pack, period.Kind)
		period.ID = usage.WithBounds(period.ID, set.Number)
		c, found, err := p.count(tx, acct, e.Account, pack, period.ID)
		if err != nil {
			failed = err
			return
		}
		c.add(e, period, acct.terms.Version(), rec.Timestamp)
		if !found && p.s.cfg.History.Enabled && !set.Complete(period) {
			failed = p.ask(tx, c, rec)
		}
	})
	if failed == nil && acct.bounds.Miss(e.Pack, e.OccurredAt) {
		failed = p.keepBounds(tx, e.Account, &acct.bounds)
	}
	return failed
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

// count returns the row of a period, and whether there was one. The caller changes it.
func (p *partition) count(tx *stream.Tx, acct *account, account, pack, period string) (c *count, found bool, err error) {
	if c := acct.row(pack, period); c != nil {
		p.touch(c)
		return c, true, nil
	}
	key := countKey(account, pack, period)
	if c, ok := p.touched[key]; ok {
		return c, true, nil
	}
	c = &count{account: account, pack: pack, period: period}
	row, err := tx.Get(storeCounts, []byte(key))
	if err != nil {
		return nil, false, err
	}
	if row != nil {
		if err := c.decode(row); err != nil {
			return nil, false, err
		}
	}
	c.key = key
	p.touch(c)
	if p.rows++; p.rows > p.s.cfg.CacheBytes/rowBytes {
		p.forgetRows()
		p.rows = 1
	}
	if len(acct.rows) == fewRows {
		p.rows -= fewRows
		acct.rows = nil
	}
	acct.rows = append(acct.rows, c)
	return c, row != nil, nil
}

// touch makes a row one that the open transaction changes.
func (p *partition) touch(c *count) {
	if !c.touched {
		c.touched = true
		p.touched[c.key] = c
		p.order = append(p.order, c)
	}
}

// finish writes and emits every count that the transaction has changed, once.
func (p *partition) finish(tx *stream.Tx) error {
	// Before rows are written: a walk has to sort those that the transaction has written.
	over, err := p.over(tx)
	if err != nil {
		return err
	}
	for _, c := range p.order {
		key := []byte(c.key)
		tx.Put(storeCounts, key, c.encode())
		c.fill(&p.value)
		value, err := p.s.counts.Append(tx.Context(), make([]byte, 0, 96+len(key)+48*len(c.providers)), &p.value)
		if err != nil {
			return err
		}
		tx.Emit(schemas.UsageCounts, key, value)
		c.touched = false
	}
	p.prune(tx, over)
	clear(p.touched)
	p.order = p.order[:0]
	return p.seen.prune(tx)
}
