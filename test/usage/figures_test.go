package usage

import (
	"slices"
	"sync"
	"time"

	"databus/test/measure"
	"databus/test/prove"
	"databus/test/usage/verify"
)

// figures collects what the proofs of this process measured.
var figures = &collected{}

type collected struct {
	mu                       sync.Mutex
	verified                 int
	kills, brokerKills       int
	missing, double, open    int
	points                   map[string]int
	takeovers, takeoverKills []time.Duration
}

func (c *collected) add(r *verify.Report) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.verified++
	c.missing += r.Missing
	c.double += r.Double
	c.open += r.OpenTransactions
}

func (c *collected) kill(point string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kills++
	if point != "" {
		if c.points == nil {
			c.points = map[string]int{}
		}
		c.points[point]++
	}
}

func (c *collected) takeover(d time.Duration, killed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if killed {
		c.takeoverKills = append(c.takeoverKills, d)
	} else {
		c.takeovers = append(c.takeovers, d)
	}
}

// print ends a full run.
func (c *collected) print() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.verified == 0 {
		return
	}
	say := func(name, unit string, n, goal int) {
		prove.Print(measure.Figure{Name: name, Value: float64(n), Unit: unit, Goal: float64(goal), AtMost: goal == 0})
	}
	seconds := func(name string, all []time.Duration, goal float64) {
		if len(all) > 0 {
			prove.Print(measure.Figure{Name: name, Value: slices.Max(all).Seconds(), Unit: "s", Goal: goal, AtMost: true})
		}
	}
	if c.kills > 0 {
		say("kills", "kills", c.kills, 600)
		for _, p := range points {
			say("kills_"+prove.Name(p), "kills", c.points[p], 20)
		}
	}
	if c.brokerKills > 0 {
		say("broker_kills", "kills", c.brokerKills, 10)
	}
	seconds("takeover_after_kill_seconds", c.takeoverKills, 10)
	seconds("takeover_after_leave_seconds", c.takeovers, 2)
	say("lost", "results", c.missing, 0)
	say("double", "results", c.double, 0)
	say("open_transactions", "transactions", c.open, 0)
}
