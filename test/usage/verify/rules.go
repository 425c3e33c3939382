package verify

import (
	"regexp"
	"time"
	_ "time/tzdata" // time zones that do not depend on the machine

	"databus/schemas/event"
)

var name = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

const (
	mostUnits  = 1_000_000_000_000
	mostMicros = 1_000_000_000_000_000
)

// kept is how long the aggregator keeps counts behind the end of their period, and so how late an event may be.
const kept = 400 * 24 * time.Hour

// acceptable says whether an event may be counted.
func acceptable(e *event.UsageEvent, key string, appended time.Time) bool {
	abs := func(n int64) int64 { return max(n, -n) }
	return len(e.EventID) >= 1 && len(e.EventID) <= 128 && name.MatchString(e.Account) && name.MatchString(e.Pack) && e.Account == key &&
		e.Quantity != 0 && abs(e.Quantity) <= mostUnits && abs(e.AmountMicros) <= mostMicros &&
		(e.Provider == nil || name.MatchString(*e.Provider)) &&
		e.OccurredAt.UTC().Year() >= 2000 && !e.OccurredAt.Before(appended.Add(-kept)) && !e.OccurredAt.After(appended.Add(24*time.Hour))
}

// newContract returns nil for a contract that breaks a rule.
func newContract(e event.Contract, key string) *contract {
	zone, err := time.LoadLocation(e.TimeZone)
	if err != nil || e.TimeZone == "Local" || !name.MatchString(e.Account) || e.Account != key || e.Version < 1 || len(e.Packs) > 256 {
		return nil
	}
	if e.EndsAt != nil && !e.EndsAt.After(e.StartsAt) {
		return nil
	}
	seen := map[string]bool{}
	for _, p := range e.Packs {
		id := p.Pack + "/" + string(p.Period)
		if p.Pack != "*" && !name.MatchString(p.Pack) || p.Limit < 1 || p.Limit > mostUnits || seen[id] || len(p.Thresholds) > 64 {
			return nil
		}
		seen[id] = true
		for _, t := range p.Thresholds {
			most := int64(mostUnits)
			if t.Kind == event.ThresholdKindPercent {
				most = 1000
			}
			if t.Value < 1 || t.Value > most {
				return nil
			}
		}
	}
	return &contract{Contract: e, zone: zone}
}
