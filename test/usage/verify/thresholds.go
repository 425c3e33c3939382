package verify

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
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

// crossed is what has been announced about a limit in one period.
type crossed struct {
	limit  int64
	levels map[level]bool
	over   bool // a later period has begun: everything announced was reset as well, and stays said
}

// announced are the consequences of an account's counts and contracts.
type announced struct {
	thresholds []string          // one text per event
	states     map[string]string // newest limit state by key; empty: a tombstone
	crossed    map[string]crossed
	known      map[string]*count
	gone       map[string]bool // keys of counts whose months or years were cut otherwise since; never cut so again
}

// announce computes what the limiter must have said about an account.
func (a *account) announce() announced {
	out := announced{states: map[string]string{}, crossed: map[string]crossed{}, known: map[string]*count{}, gone: map[string]bool{}}
	force := inForce{left: a.contracts}
	var last *contract
	change := func(r contractRecord) {
		before := last
		last = force.now
		for key, c := range out.known {
			if out.gone[key] || c.period.end != 0 && c.period.end <= r.appended.UnixMicro() {
				continue // a period that is over keeps what was said about it
			}
			if before.cuts(c) != force.now.cuts(c) {
				out.drop(force.now, c, r.cause, r.appended)
				out.gone[key] = true
				continue
			}
			out.compare(force.now, c, r.cause, r.appended)
		}
	}
	for i := range a.published {
		p := &a.published[i]
		force.until(p.appended, change)
		_, before := out.known[p.key()]
		out.known[p.key()] = &p.count
		if out.gone[p.key()] {
			continue
		}
		if !before {
			out.begin(force.now, &p.count, p.cause, p.appended)
		}
		out.compare(force.now, &p.count, p.cause, p.appended)
	}
	force.until(time.Unix(1<<40, 0), change)
	return out
}

// cuts says by what a contract cuts the periods of a count. Where two contracts in a row do not cut them alike, the second
// one begins others, whatever their names.
func (c *contract) cuts(n *count) string {
	zone := "UTC"
	if c != nil {
		zone = c.TimeZone
	}
	switch kind, _, _ := strings.Cut(n.period.id, ":"); kind {
	case "total":
		return "never"
	case "month":
		return "in " + zone
	default:
		if c != nil {
			for _, l := range c.Packs {
				if l.Pack == n.pack && l.Period == map[string]event.Period{"contract-month": event.PeriodContractMonth, "contract-year": event.PeriodContractYear}[kind] {
					return fmt.Sprintf("in %s from %d on", zone, c.StartsAt.UnixNano())
				}
			}
		}
		return "no limit, no periods"
	}
}

// others are the known counts of a pack's other periods of the same kind.
func (o *announced) others(c *count) (all []*count) {
	kind, _, _ := strings.Cut(c.period.id, ":")
	for _, k := range o.known {
		if other, _, _ := strings.Cut(k.period.id, ":"); k.pack == c.pack && other == kind && k.period.id != c.period.id {
			all = append(all, k)
		}
	}
	return all
}

// begin is the first count of a period: what is before it is over, and what has its name under older bounds is gone.
func (o *announced) begin(terms *contract, c *count, why cause, at time.Time) {
	if c.period.end == 0 {
		return
	}
	name, number := split(c.period.id)
	for _, k := range o.others(c) {
		other, set := split(k.period.id)
		if other == name && set < number {
			o.drop(terms, k, why, at)
			delete(o.known, k.key())
		} else if other != name && k.period.end <= c.period.start {
			if said, ok := o.crossed[k.key()]; ok && !said.over {
				o.reset(terms, k, said, why, at)
				said.over = true
				o.crossed[k.key()] = said
			}
		}
	}
}

// split takes the id of a period apart: its name, and the number of its bounds.
func split(id string) (name string, set int) {
	name, number, ok := strings.Cut(id, "@")
	if !ok {
		return id, 1
	}
	set, _ = strconv.Atoi(number)
	return name, set
}

func (o *announced) say(kind string, terms *contract, c *count, l level, limit int64, why cause, at time.Time) {
	o.thresholds = append(o.thresholds, thresholdText(c.key(), c.period, kind, l, l.units(limit), c.matched+c.unmatched, limit, terms.version(), at.UnixMicro(), why))
}

func (o *announced) reset(terms *contract, c *count, said crossed, why cause, at time.Time) {
	for l := range said.levels {
		o.say("RESET", terms, c, l, said.limit, why, at)
	}
}

// drop ends a limit.
func (o *announced) drop(terms *contract, c *count, why cause, at time.Time) {
	said, ok := o.crossed[c.key()]
	if !ok {
		return
	}
	if !said.over {
		o.reset(terms, c, said, why, at)
	}
	delete(o.crossed, c.key())
	o.states[c.key()] = ""
}

func (o *announced) compare(terms *contract, c *count, why cause, at time.Time) {
	key := c.key()
	limit := terms.limit(c)
	if limit == nil {
		o.drop(terms, c, why, at)
		return
	}
	before, known := o.crossed[key]
	if !known && c.period.end != 0 {
		for _, k := range o.others(c) {
			before.over = before.over || k.period.start >= c.period.end
		}
	}
	used := c.matched + c.unmatched
	reached := map[level]bool{}
	for _, l := range levels(limit) {
		if used >= l.units(limit.Limit) {
			reached[l] = true
		}
	}
	now := crossed{limit.Limit, maps.Clone(reached), before.over}
	for l := range before.levels {
		if before.over {
			now.levels[l] = true
		} else if !reached[l] {
			o.say("RESET", terms, c, l, limit.Limit, why, at)
		}
	}
	for l := range reached {
		if before.levels[l] {
			continue
		}
		o.say("CROSSED", terms, c, l, limit.Limit, why, at)
		if before.over {
			o.say("RESET", terms, c, l, limit.Limit, why, at)
		}
	}
	o.crossed[key] = now
	state := "OK"
	switch {
	case used >= limit.Limit:
		state = "EXCEEDED"
	case len(reached) > 0:
		state = "WARNED"
	}
	o.states[key] = stateText(c.period, limit.Limit, used, limit.Limit-used, state, terms.Version, micros(terms.EndsAt), at.UnixMicro())
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
