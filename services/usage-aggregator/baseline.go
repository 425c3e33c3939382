package usageaggregator

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/stream"
	"databus/pkg/usage"
	"databus/schemas"
	"databus/schemas/event"
)

// What became of answers, as the label says.
const (
	answerAdded   = "added"
	answerIgnored = "ignored"
)

func answersCounted(metrics prometheus.Registerer) (*prometheus.CounterVec, error) {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "databus", Subsystem: "usage", Name: "baselines_total",
		Help: "Answers of the history worker: added to a count, or ignored because it had been answered before."}, []string{"result"})
	if err := metrics.Register(v); err != nil {
		var have prometheus.AlreadyRegisteredError
		if errors.As(err, &have) {
			if old, ok := have.ExistingCollector.(*prometheus.CounterVec); ok {
				return old, nil
			}
		}
		return nil, fmt.Errorf("registering metrics: %w", err)
	}
	return v, nil
}

// ask makes a new count provisional and asks for what happened in its period before the event that began it. Once: the row
// of the count exists from this transaction on, and so does the one that says what was asked for, until it is answered.
func (p *partition) ask(tx *stream.Tx, acct *account, c *count, rec *kgo.Record) error {
	key := c.key()
	q := &event.BaselineRequest{
		RequestID: fmt.Sprintf("%s/%d", key, c.version), Account: acct.name, Pack: c.pack, Period: c.period, ContractVersion: c.version,
		SeamPartition: rec.Partition, SeamOffset: rec.Offset, SeamTime: rec.Timestamp.UTC(), KnownFrom: p.known,
		WindowMicros: p.s.cfg.DedupWindow.Microseconds(), KeepEndedMicros: p.s.cfg.KeepEnded.Microseconds(),
	}
	q.PeriodStart, q.PeriodEnd = c.moments()
	if kind, _ := usage.Kind(c.period); kind == event.PeriodContractMonth || kind == event.PeriodContractYear {
		if ends := acct.terms.Contract.EndsAt; ends != nil && ends.Before(*q.PeriodEnd) {
			q.PeriodEnd = ends // what comes behind it does not count to the period
		}
	}
	value, err := p.s.requests.Encode(tx.Context(), q)
	if err != nil {
		return err
	}
	row, err := p.s.asked.Append(nil, q)
	if err != nil {
		return err
	}
	c.provisional = true
	tx.Put(storeAsked, []byte(key), row)
	tx.Emit(schemas.UsageBaselineRequests, []byte(acct.name), value)
	return nil
}

// onBaseline adds an answer to its count, once: in the same transaction the count is provisional no longer and the request is
// forgotten. The worker may answer more than once, and what is not asked for any more is ignored; what counts up to another
// seam than the request's is a dead letter.
func (p *partition) onBaseline(tx *stream.Tx, rec *kgo.Record) error {
	var b event.Baseline
	if err := p.s.baselines.Decode(tx.Context(), rec.Value, &b); err != nil {
		return err
	}
	if b.Account != string(rec.Key) || !schemas.ValidAccount(b.Account) {
		return stream.Poison("baseline: the record's key is not the account")
	}
	key := countKey(b.Account, b.Pack, b.Period)
	row, err := tx.Get(storeAsked, []byte(key))
	if err != nil {
		return err
	}
	if row == nil {
		p.s.answers.WithLabelValues(answerIgnored).Inc()
		return nil
	}
	var q event.BaselineRequest
	if err := p.s.asked.Decode(row, &q); err != nil {
		return fmt.Errorf("reading what was asked for: %w", err)
	}
	switch {
	case b.RequestID != q.RequestID:
		return stream.Poison("baseline: it does not answer the request that is open for the count")
	case b.SeamPartition != q.SeamPartition || b.SeamOffset != q.SeamOffset:
		return stream.Poison("baseline: it counts up to another seam than the request's")
	}
	c, err := p.provisional(tx, &b)
	if err != nil {
		return err
	}
	if !c.takes(&b) {
		return stream.Poison("baseline: a sum of its count would be beyond what can be added up")
	}
	if !c.touched {
		c.touched = true
		p.order = append(p.order, c)
	}
	c.join(&b)
	tx.Delete(storeAsked, []byte(key))
	p.s.answers.WithLabelValues(answerAdded).Inc()
	return nil
}

// provisional returns the count that an answer is for. It exists: the request's row goes with it.
func (p *partition) provisional(tx *stream.Tx, b *event.Baseline) (*count, error) {
	if p.first == nil {
		// As begin does at the first event, which would forget a changed count.
		first, err := p.since(tx)
		if err != nil {
			return nil, err
		}
		p.first = first
		p.forget()
	}
	acct, err := p.account(tx, b.Account)
	if err != nil {
		return nil, err
	}
	if c := acct.row(b.Pack, b.Period); c != nil {
		return c, nil
	}
	c := &count{account: acct, pack: shared(b.Pack), period: shared(b.Period)}
	row, err := tx.Get(storeCounts, []byte(c.key()))
	if err != nil {
		return nil, err
	}
	if row == nil {
		return nil, errors.New("reading the count that history was asked for: there is none; restore the state")
	}
	if err := p.read(tx, row, c); err != nil {
		return nil, err
	}
	p.trim(acct)
	p.keep(acct, c)
	return c, nil
}

// takes says whether no sum gets too large by a baseline.
func (c *count) takes(b *event.Baseline) bool {
	fits := func(a, b int64) bool { return usage.SumFits(b) && usage.SumFits(a+b) }
	for i := range b.Providers {
		n := &b.Providers[i]
		for k := range c.providers {
			if m := &c.providers[k]; (m.Provider == n.Provider || m.Provider == otherProviders) &&
				!(fits(m.Matched, n.Matched) && fits(m.Unmatched, n.Unmatched) && fits(m.AmountMicros, n.AmountMicros)) {
				return false
			}
		}
	}
	return fits(c.matched, b.Matched) && fits(c.unmatched, b.Unmatched) && fits(c.amount, b.AmountMicros)
}

// join adds a baseline, which ends the wait for it. Providers beyond those that have a part go to the part of all others.
func (c *count) join(b *event.Baseline) {
	c.matched, c.unmatched, c.amount = c.matched+b.Matched, c.unmatched+b.Unmatched, c.amount+b.AmountMicros
	for i := range b.Providers {
		n := &b.Providers[i]
		m := c.provider(n.Provider)
		m.Matched, m.Unmatched, m.AmountMicros = m.Matched+n.Matched, m.Unmatched+n.Unmatched, m.AmountMicros+n.AmountMicros
	}
	c.provisional, c.estimated = false, b.Estimated
}
