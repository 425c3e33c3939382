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
	pack, period := p.names.of(c.pack), p.names.of(c.period)
	key := countKey(acct.name, pack, period)
	q := &event.BaselineRequest{
		RequestID: fmt.Sprintf("%s/%d", key, c.version), Account: acct.name, Pack: pack, Period: period, ContractVersion: c.version,
		SeamPartition: rec.Partition, SeamOffset: rec.Offset, SeamTime: rec.Timestamp.UTC(), KnownFrom: p.known,
		WindowMicros: p.s.cfg.DedupWindow.Microseconds(), KeepEndedMicros: p.s.cfg.KeepEnded.Microseconds(),
	}
	q.PeriodStart, q.PeriodEnd = c.moments()
	if kind, _ := usage.Kind(period); kind == event.PeriodContractMonth || kind == event.PeriodContractYear {
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
	asked, err := tx.Get(storeAsked, []byte(key))
	if err != nil {
		return err
	}
	if asked == nil {
		p.s.answers.WithLabelValues(answerIgnored).Inc()
		return nil
	}
	var q event.BaselineRequest
	if err := p.s.asked.Decode(asked, &q); err != nil {
		return fmt.Errorf("reading what was asked for: %w", err)
	}
	switch {
	case b.RequestID != q.RequestID:
		return stream.Poison("baseline: it does not answer the request that is open for the count")
	case b.SeamPartition != q.SeamPartition || b.SeamOffset != q.SeamOffset:
		return stream.Poison("baseline: it counts up to another seam than the request's")
	}
	acct, row, err := p.provisional(tx, &b)
	if err != nil {
		return err
	}
	p.settle()
	if !p.takes(acct, row, &b) {
		return stream.Poison("baseline: a sum of its count would be beyond what can be added up")
	}
	p.join(acct, row, &b)
	tx.Delete(storeAsked, []byte(key))
	p.s.answers.WithLabelValues(answerAdded).Inc()
	return nil
}

// provisional returns the row that an answer is for. It exists: the request's row goes with it.
func (p *partition) provisional(tx *stream.Tx, b *event.Baseline) (acct *account, row int32, err error) {
	if p.first == nil {
		// As begin does at the first event, which would forget a changed count.
		if p.first, err = p.since(tx); err != nil {
			return nil, 0, err
		}
		p.forget()
	}
	if acct, err = p.account(tx, b.Account); err != nil {
		return nil, 0, err
	}
	row, ok, err := p.find(tx, acct, b.Pack, b.Period)
	if err == nil && !ok {
		err = errors.New("reading the count that history was asked for: there is none; restore the state")
	}
	return acct, row, err
}

// takes says whether no sum of a settled row gets too large by a baseline.
func (p *partition) takes(acct *account, row int32, b *event.Baseline) bool {
	c := &acct.rows[row]
	for i := range b.Providers {
		n := &b.Providers[i]
		if !acct.sharesTake(&p.names, c, n.Provider, &sums{n.Matched, n.Unmatched, n.AmountMicros}) {
			return false
		}
	}
	return c.takes(&sums{b.Matched, b.Unmatched, b.AmountMicros})
}

// join adds a baseline, which ends the wait for it. Providers beyond those that have a share go to that of all others.
func (p *partition) join(acct *account, row int32, b *event.Baseline) {
	p.touch(acct, row)
	c := &acct.rows[row]
	c.add(&sums{b.Matched, b.Unmatched, b.AmountMicros})
	for i := range b.Providers {
		n := &b.Providers[i]
		acct.share(&p.names, c, p.names.number(n.Provider)).add(&sums{n.Matched, n.Unmatched, n.AmountMicros})
	}
	c.provisional, c.estimated = false, b.Estimated
	acct.measure()
}
