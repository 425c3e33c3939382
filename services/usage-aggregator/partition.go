package usageaggregator

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/stream"
	"databus/pkg/usage"
	"databus/schemas"
	"databus/schemas/event"
)

// maxTerms bounds the contracts that a partition keeps parsed.
const maxTerms = 10_000

// partition is what one partition remembers between calls. The runtime throws it away with every aborted transaction.
type partition struct {
	s       *Service
	terms   map[string]*usage.Terms // by account; nil for an account without contract
	touched map[string]*count       // counts that the open transaction has changed, by key
	order   []*count                // the same in order of first change
	seen    seen
	event   event.UsageEvent
}

func newPartition(s *Service) *partition {
	return &partition{s: s, terms: map[string]*usage.Terms{}, touched: map[string]*count{}, seen: newSeen(s.cfg.DedupWindow)}
}

// onContract stores a contract, unless an equal or newer version is known. A tombstone ends it.
func (p *partition) onContract(tx *stream.Tx, rec *kgo.Record) error {
	account := string(rec.Key)
	if rec.Value == nil {
		tx.Delete(storeContracts, rec.Key)
		delete(p.terms, account)
		return nil
	}
	var c event.Contract
	if err := p.s.contracts.Decode(tx.Context(), rec.Value, &c); err != nil {
		return err
	}
	terms, err := usage.NewTerms(c)
	if err != nil {
		return stream.Poison("contract: " + err.Error())
	}
	if c.Account != account {
		return stream.Poison("contract: the record's key is not the account")
	}
	known, err := p.contract(tx, account)
	if err != nil {
		return err
	}
	if c.Version <= known.Version() {
		return nil
	}
	row, err := p.s.stored.Append(nil, &c)
	if err != nil {
		return err
	}
	tx.Put(storeContracts, rec.Key, row)
	p.terms[account] = terms
	return nil
}

func (p *partition) contract(tx *stream.Tx, account string) (*usage.Terms, error) {
	if t, ok := p.terms[account]; ok {
		return t, nil
	}
	row, err := tx.Get(storeContracts, []byte(account))
	if err != nil {
		return nil, err
	}
	if len(p.terms) >= maxTerms {
		clear(p.terms)
	}
	var terms *usage.Terms
	if row != nil {
		var c event.Contract
		if err := p.s.stored.Decode(row, &c); err != nil {
			return nil, fmt.Errorf("reading a stored contract: %w", err)
		}
		if terms, err = usage.NewTerms(c); err != nil {
			return nil, fmt.Errorf("reading a stored contract: %w", err)
		}
	}
	p.terms[account] = terms
	return terms, nil
}

// onEvent counts an event. Whatever can refuse it comes before the first change.
func (p *partition) onEvent(tx *stream.Tx, rec *kgo.Record) error {
	e := &p.event
	*e = event.UsageEvent{}
	if err := p.s.events.Decode(tx.Context(), rec.Value, e); err != nil {
		return err
	}
	if err := usage.CheckEvent(e, rec.Timestamp); err != nil {
		return stream.Poison("event: " + err.Error())
	}
	if e.Account != string(rec.Key) {
		// Its account's rows may belong to another partition.
		return stream.Poison("event: the record's key is not the account")
	}
	terms, err := p.contract(tx, e.Account)
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
	terms.Counted(e.Pack, e.OccurredAt, func(pack string, period usage.Period) {
		c, err := p.count(tx, e.Account, pack, period.ID)
		if err != nil {
			failed = err
			return
		}
		c.add(e, period, terms.Version(), rec.Timestamp)
	})
	return failed
}

func (p *partition) count(tx *stream.Tx, account, pack, period string) (*count, error) {
	key := countKey(account, pack, period)
	if c, ok := p.touched[key]; ok {
		return c, nil
	}
	c := &count{account: account, pack: pack, period: period}
	row, err := tx.Get(storeCounts, []byte(key))
	if err != nil {
		return nil, err
	}
	if row != nil {
		if err := c.decode(row); err != nil {
			return nil, err
		}
	}
	p.touched[key] = c
	p.order = append(p.order, c)
	return c, nil
}

// finish writes and emits every count that the transaction has changed, once.
func (p *partition) finish(tx *stream.Tx) error {
	for _, c := range p.order {
		key := []byte(countKey(c.account, c.pack, c.period))
		tx.Put(storeCounts, key, c.encode())
		value, err := p.s.counts.Encode(tx.Context(), c.event())
		if err != nil {
			return err
		}
		tx.Emit(schemas.UsageCounts, key, value)
	}
	clear(p.touched)
	p.order = p.order[:0]
	return p.seen.prune(tx)
}
