package limiter

import (
	"fmt"
	"slices"
	"time"

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
	s     *Service
	terms map[string]*usage.Terms // by account; nil for an account without contract
	// states are the limits that the open transaction has changed, by key; nil where a limit does not exist any more.
	states map[string]*event.LimitState
	order  []string // keys in order of first change
}

func newPartition(s *Service) *partition {
	return &partition{s: s, terms: map[string]*usage.Terms{}, states: map[string]*event.LimitState{}}
}

// onCount stores a count and compares it with its limit. A tombstone is the end of a count that the aggregator keeps no
// longer, long after its period.
func (p *partition) onCount(tx *stream.Tx, rec *kgo.Record) error {
	if rec.Value == nil {
		return p.remove(tx, rec.Key)
	}
	var c event.UsageCount
	if err := p.s.counts.Decode(tx.Context(), rec.Value, &c); err != nil {
		return err
	}
	if schemas.JoinKey(c.Account, c.Pack, c.Period) != string(rec.Key) || !schemas.ValidAccount(c.Account) {
		return stream.Poison("count: the record's key is not the count's")
	}
	kind, ok := usage.Kind(c.Period)
	if !ok {
		return stream.Poison("count: the period is of an unknown kind")
	}
	if (kind == event.PeriodTotal) != (c.PeriodEnd == nil) || c.PeriodEnd != nil && !c.PeriodEnd.After(c.PeriodStart) {
		return stream.Poison("count: the period does not end behind its start")
	}
	if _, set := usage.Bounds(c.Period); set == 0 {
		return stream.Poison("count: the number of the period's set of bounds is not valid")
	}
	if !usage.SumFits(c.Matched) || !usage.SumFits(c.Unmatched) {
		return stream.Poison("count: a sum is beyond what can be added up")
	}
	terms, err := p.contract(tx, c.Account)
	if err != nil {
		return err
	}
	row, err := tx.Get(storeCounts, rec.Key)
	if err != nil {
		return err
	}
	now := known{UsageCount: c}
	if row != nil {
		before, err := decodeCount(rec.Key, row)
		if err != nil {
			return err
		}
		now.ended = before.ended
	}
	tx.Put(storeCounts, rec.Key, now.encode())
	if now.ended {
		return nil // the aggregator had not met the contract yet
	}
	if row == nil && c.PeriodEnd != nil {
		if err = p.begin(tx, rec, terms, &c); err != nil {
			return err
		}
	}
	return p.compare(tx, rec, terms, &c)
}

// onContract stores a contract, unless an equal or newer version is known, and compares the account's counts with it. A
// tombstone ends the contract.
func (p *partition) onContract(tx *stream.Tx, rec *kgo.Record) error {
	account := string(rec.Key)
	known, err := p.contract(tx, account)
	if err != nil {
		return err
	}
	if rec.Value == nil {
		tx.Delete(storeContracts, rec.Key)
		p.terms[account] = nil
		return p.compareAll(tx, rec, account, known, nil)
	}
	var c event.Contract
	if err = p.s.contracts.Decode(tx.Context(), rec.Value, &c); err != nil {
		return err
	}
	terms, err := usage.NewTerms(c)
	if err != nil {
		return stream.Poison("contract: " + err.Error())
	}
	if c.Account != account {
		return stream.Poison("contract: the record's key is not the account")
	}
	if c.Version <= known.Version() {
		return nil
	}
	row, err := p.s.storedContracts.Append(nil, &c)
	if err != nil {
		return err
	}
	tx.Put(storeContracts, rec.Key, row)
	p.terms[account] = terms
	return p.compareAll(tx, rec, account, known, terms)
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
		if err := p.s.storedContracts.Decode(row, &c); err != nil {
			return nil, fmt.Errorf("reading a stored contract: %w", err)
		}
		if terms, err = usage.NewTerms(c); err != nil {
			return nil, fmt.Errorf("reading a stored contract: %w", err)
		}
	}
	p.terms[account] = terms
	return terms, nil
}

// compareAll compares every count of an account whose period has not ended with its new contract.
func (p *partition) compareAll(tx *stream.Tx, cause *kgo.Record, account string, old, terms *usage.Terms) error {
	counts, err := stored(tx, account+"/")
	for _, c := range counts {
		if err != nil {
			break
		}
		if c.ended || c.PeriodEnd != nil && !c.PeriodEnd.After(cause.Timestamp) {
			continue // history: what was announced about it stays
		}
		key := []byte(schemas.JoinKey(c.Account, c.Pack, c.Period))
		if c.ended = ends(old, terms, &c.UsageCount); c.ended {
			var row []byte
			if row, err = tx.Get(storeCrossed, key); err == nil {
				err = p.drop(tx, cause, terms, &c.UsageCount, row)
			}
		} else {
			err = p.compare(tx, cause, terms, &c.UsageCount)
		}
		if terms == nil {
			c.ContractVersion = 0 // versions start over
		}
		if c.ended || terms == nil {
			tx.Put(storeCounts, key, c.encode())
		}
	}
	return err
}

// compare announces what the count crosses or falls below, and keeps the limit's state for finish.
func (p *partition) compare(tx *stream.Tx, cause *kgo.Record, terms *usage.Terms, c *event.UsageCount) error {
	key := []byte(schemas.JoinKey(c.Account, c.Pack, c.Period))
	row, err := tx.Get(storeCrossed, key)
	if err != nil {
		return err
	}
	limit := terms.Limit(c.Pack, c.Period, c.PeriodStart)
	if limit == nil {
		// The contract dropped the limit: whoever acts on a crossed threshold must stop.
		return p.drop(tx, cause, terms, c, row)
	}
	var before announced
	if row != nil {
		before, err = decodeCrossed(row)
	} else if c.PeriodEnd != nil {
		before.over, err = over(tx, c)
	}
	if err != nil {
		return err
	}
	used := c.Matched + c.Unmatched
	now := announced{limit: limit.Limit, over: before.over}
	var reached []threshold
	for _, t := range levels(limit) {
		if used >= t.units(limit.Limit) {
			reached = append(reached, t)
		}
	}
	now.crossed = reached
	if now.over {
		// What was announced in a period that is over was reset as well, and stays said.
		now.crossed = before.crossed
		for _, t := range reached {
			if !slices.Contains(now.crossed, t) {
				now.crossed = append(slices.Clip(now.crossed), t)
			}
		}
	}
	for _, t := range slices.Backward(before.crossed) {
		if !slices.Contains(now.crossed, t) {
			if err := p.announce(tx, cause, terms, c, t, limit.Limit, event.ThresholdEventKindReset); err != nil {
				return err
			}
		}
	}
	for _, t := range now.crossed {
		if slices.Contains(before.crossed, t) {
			continue
		}
		if err := p.announce(tx, cause, terms, c, t, limit.Limit, event.ThresholdEventKindCrossed); err != nil {
			return err
		}
		if !now.over {
			continue
		}
		if err := p.announce(tx, cause, terms, c, t, limit.Limit, event.ThresholdEventKindReset); err != nil {
			return err
		}
	}
	if row == nil || before.limit != now.limit || !slices.Equal(before.crossed, now.crossed) {
		tx.Put(storeCrossed, key, now.encode())
	}
	state := &event.LimitState{Account: c.Account, Pack: c.Pack, Period: c.Period, PeriodStart: c.PeriodStart, PeriodEnd: c.PeriodEnd,
		Limit: limit.Limit, Used: used, Remaining: limit.Limit - used, State: event.LimitLevelOk, ContractVersion: terms.Version(),
		ContractEndsAt: terms.Contract.EndsAt, UpdatedAt: micros(cause.Timestamp)}
	switch {
	case used >= limit.Limit:
		state.State = event.LimitLevelExceeded
	case len(reached) > 0:
		state.State = event.LimitLevelWarned
	}
	p.keep(string(key), state)
	return nil
}

func (p *partition) announce(tx *stream.Tx, cause *kgo.Record, terms *usage.Terms, c *event.UsageCount, t threshold, limit int64, kind event.ThresholdEventKind) error {
	value, err := p.s.thresholds.Encode(tx.Context(), &event.ThresholdEvent{
		Account: c.Account, Pack: c.Pack, Period: c.Period, PeriodStart: c.PeriodStart, PeriodEnd: c.PeriodEnd, Kind: kind,
		ThresholdKind: t.measure(), ThresholdValue: t.value, ThresholdUnits: t.units(limit), Count: c.Matched + c.Unmatched, Limit: limit,
		ContractVersion: terms.Version(), At: micros(cause.Timestamp),
		CauseTopic: cause.Topic, CausePartition: cause.Partition, CauseOffset: cause.Offset,
	})
	if err != nil {
		return err
	}
	tx.Emit(schemas.UsageThresholds, []byte(c.Account), value)
	return nil
}

func (p *partition) keep(key string, state *event.LimitState) {
	if _, ok := p.states[key]; !ok {
		p.order = append(p.order, key)
	}
	p.states[key] = state
}

// finish emits the newest state of every limit that the transaction has changed.
func (p *partition) finish(tx *stream.Tx) error {
	for _, key := range p.order {
		var value []byte // a tombstone where the limit is gone
		if state := p.states[key]; state != nil {
			var err error
			if value, err = p.s.limits.Encode(tx.Context(), state); err != nil {
				return err
			}
		}
		tx.Emit(schemas.UsageLimits, []byte(key), value)
	}
	clear(p.states)
	p.order = p.order[:0]
	return nil
}

// micros cuts a moment to the precision of the events.
func micros(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }
