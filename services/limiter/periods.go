package limiter

import (
	"errors"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/stream"
	"databus/pkg/usage"
	"databus/schemas"
	"databus/schemas/event"
)

// stored returns the counts whose keys start with prefix. An account has few: one for each pack, kind and kept period.
func stored(tx *stream.Tx, prefix string) (all []*known, err error) {
	var failed error
	err = tx.Scan(storeCounts, []byte(prefix), func(key, row []byte) bool {
		var c *known
		if c, failed = decodeCount(key, row); failed == nil {
			all = append(all, c)
		}
		return failed == nil
	})
	return all, errors.Join(err, failed)
}

// siblings are the counts of a pack's other periods of the same kind.
func siblings(tx *stream.Tx, c *event.UsageCount) ([]*known, error) {
	kind, _, _ := strings.Cut(c.Period, ":")
	all, err := stored(tx, schemas.JoinKey(c.Account, c.Pack, kind)+":")
	return slices.DeleteFunc(all, func(o *known) bool { return o.Period == c.Period }), err
}

// over says whether a later period has begun: the count of this one comes from a late event.
func over(tx *stream.Tx, c *event.UsageCount) (bool, error) {
	others, err := siblings(tx, c)
	return slices.ContainsFunc(others, func(o *known) bool { return !o.PeriodStart.Before(*c.PeriodEnd) }), err
}

// begin is called with the first count of a period. It ends what the period follows: thresholds of the pack's earlier
// periods of the kind are announced as reset, and periods of the same name under older bounds have no limit any more.
//
// Which thresholds are announced does not depend on how counts share transactions: each crossing comes once, and each
// reset once if a later period exists, in whatever order the periods come.
func (p *partition) begin(tx *stream.Tx, cause *kgo.Record, terms *usage.Terms, c *event.UsageCount) error {
	base, set := usage.Bounds(c.Period)
	others, err := siblings(tx, c)
	if err != nil {
		return err
	}
	for _, o := range others {
		otherBase, otherSet := usage.Bounds(o.Period)
		key := []byte(schemas.JoinKey(o.Account, o.Pack, o.Period))
		switch {
		case otherBase == base && otherSet < set:
			var row []byte
			if row, err = tx.Get(storeCrossed, key); err == nil {
				err = p.drop(tx, cause, terms, &o.UsageCount, row)
			}
			tx.Delete(storeCounts, key) // nothing compares it any more
		case otherBase != base && !o.PeriodEnd.After(c.PeriodStart):
			err = p.end(tx, cause, terms, &o.UsageCount)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// ends says whether new terms end the bounds of a count that was made under old ones, by the rules of usage.AccountBounds. Of
// events that were not counted because a contract had ended the limiter knows nothing; where its end then moves, the first
// count under the new bounds ends the old ones, see begin.
func ends(old, terms *usage.Terms, c *event.UsageCount) bool {
	if terms == nil && c.ContractVersion == 0 || terms != nil && c.ContractVersion >= terms.Version() {
		return false // the aggregator was faster: the count was made under the new terms
	}
	zone := func(t *usage.Terms) string {
		if t == nil {
			return "UTC"
		}
		return t.Contract.TimeZone
	}
	kind, _ := usage.Kind(c.Period)
	switch kind {
	case event.PeriodTotal:
		return false
	case event.PeriodCalendarMonth:
		return zone(old) != zone(terms)
	}
	limits := func(t *usage.Terms) bool {
		return t != nil && slices.ContainsFunc(t.Contract.Packs, func(l event.ContractPack) bool { return l.Pack == c.Pack && l.Period == kind })
	}
	return !limits(old) || !limits(terms) || zone(old) != zone(terms) || !old.Contract.StartsAt.Equal(terms.Contract.StartsAt)
}

// end announces the crossed thresholds of a period as reset, once.
func (p *partition) end(tx *stream.Tx, cause *kgo.Record, terms *usage.Terms, c *event.UsageCount) error {
	key := []byte(schemas.JoinKey(c.Account, c.Pack, c.Period))
	row, err := tx.Get(storeCrossed, key)
	if err != nil || row == nil {
		return err
	}
	said, err := decodeCrossed(row)
	if err != nil || said.over {
		return err
	}
	for _, t := range slices.Backward(said.crossed) {
		if err := p.announce(tx, cause, terms, c, t, said.limit, event.ThresholdEventKindReset); err != nil {
			return err
		}
	}
	said.over = true
	tx.Put(storeCrossed, key, said.encode())
	return nil
}

// drop forgets a limit that holds no longer.
func (p *partition) drop(tx *stream.Tx, cause *kgo.Record, terms *usage.Terms, c *event.UsageCount, row []byte) error {
	if row == nil {
		return nil
	}
	said, err := decodeCrossed(row)
	if err != nil {
		return err
	}
	if !said.over {
		for _, t := range slices.Backward(said.crossed) {
			if err := p.announce(tx, cause, terms, c, t, said.limit, event.ThresholdEventKindReset); err != nil {
				return err
			}
		}
	}
	key := schemas.JoinKey(c.Account, c.Pack, c.Period)
	tx.Delete(storeCrossed, []byte(key))
	p.keep(key, nil)
	return nil
}

// remove forgets everything about a count. Its period ended long ago, so there is nothing to announce.
func (p *partition) remove(tx *stream.Tx, key []byte) error {
	tx.Delete(storeCounts, key)
	row, err := tx.Get(storeCrossed, key)
	if err != nil || row == nil {
		return err
	}
	tx.Delete(storeCrossed, key)
	p.keep(string(key), nil)
	return nil
}
