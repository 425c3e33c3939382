package verify

import (
	"fmt"
	"slices"
	"time"

	"databus/schemas/event"
)

// level is a threshold of a limit.
type level struct {
	percent bool
	value   int64
}

func (l level) units(limit int64) int64 {
	if !l.percent {
		return l.value
	}
	units := limit * l.value / 100
	if units*100 < limit*l.value {
		units++
	}
	return units
}

func levels(p *event.ContractPack) []level {
	all := []level{{true, 100}}
	for _, t := range p.Thresholds {
		if l := (level{t.Kind == event.ThresholdKindPercent, t.Value}); !slices.Contains(all, l) {
			all = append(all, l)
		}
	}
	return all
}

// crossed is what has been announced about a limit.
type crossed struct {
	limit  int64
	levels map[level]bool
}

// announced are the consequences of an account's counts and contracts.
type announced struct {
	thresholds []string          // one text per event
	states     map[string]string // newest limit state by key; empty: a tombstone
	crossed    map[string]crossed
}

// announce computes what the limiter must have said about an account.
func (a *account) announce() announced {
	out := announced{states: map[string]string{}, crossed: map[string]crossed{}}
	known := map[string]*count{}
	force := inForce{left: a.contracts}
	change := func(r contractRecord) {
		for _, c := range known {
			if c.period.end != 0 && c.period.end <= r.appended.UnixMicro() {
				continue // a period that is over keeps what was said about it
			}
			out.compare(force.now, c, r.cause, r.appended)
		}
	}
	for i := range a.published {
		p := &a.published[i]
		force.until(p.appended, change)
		known[p.key()] = &p.count
		out.compare(force.now, &p.count, p.cause, p.appended)
	}
	force.until(time.Unix(1<<40, 0), change)
	return out
}

func (o *announced) compare(terms *contract, c *count, why cause, at time.Time) {
	key := c.key()
	before, known := o.crossed[key]
	used := c.matched + c.unmatched
	say := func(kind string, l level, limit int64) {
		o.thresholds = append(o.thresholds, thresholdText(key, c.period, kind, l, l.units(limit), used, limit, terms.version(), at.UnixMicro(), why))
	}
	limit := terms.limit(c)
	if limit == nil {
		if known {
			for l := range before.levels {
				say("RESET", l, before.limit)
			}
			delete(o.crossed, key)
			o.states[key] = ""
		}
		return
	}
	now := crossed{limit.Limit, map[level]bool{}}
	for _, l := range levels(limit) {
		if used >= l.units(limit.Limit) {
			now.levels[l] = true
		}
	}
	for l := range before.levels {
		if !now.levels[l] {
			say("RESET", l, limit.Limit)
		}
	}
	for l := range now.levels {
		if !before.levels[l] {
			say("CROSSED", l, limit.Limit)
		}
	}
	o.crossed[key] = now
	state := "OK"
	switch {
	case used >= limit.Limit:
		state = "EXCEEDED"
	case len(now.levels) > 0:
		state = "WARNED"
	}
	var ends int64
	if terms.EndsAt != nil {
		ends = terms.EndsAt.UnixMicro()
	}
	o.states[key] = stateText(c.period, limit.Limit, used, limit.Limit-used, state, terms.Version, ends, at.UnixMicro())
}

func thresholdText(key string, p span, kind string, l level, units, used, limit, version, at int64, why cause) string {
	measure := "ABSOLUTE"
	if l.percent {
		measure = "PERCENT"
	}
	return fmt.Sprintf("%s (%d to %d) %s %s %d, %d units, at %d of %d, contract version %d, at %d, because of %s/%d/%d",
		key, p.start, p.end, kind, measure, l.value, units, used, limit, version, at, why.topic, why.partition, why.offset)
}

func stateText(p span, limit, used, remaining int64, state string, version, ends, updated int64) string {
	return fmt.Sprintf("%d to %d: %d of %d, %d remain, %s, contract version %d until %d, updated %d", p.start, p.end, used, limit, remaining, state, version, ends, updated)
}

// micros is a moment as events hold it; 0 for none.
func micros(t *time.Time) int64 {
	if t == nil {
		return 0
	}
	return t.UnixMicro()
}
