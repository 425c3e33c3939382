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

	past, historyKills, answers int
}

// history notes a proof of history.
func (c *collected) history(past, kills int, r *verify.Report) {
	c.add(r)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.past, c.historyKills, c.answers = max(c.past, past), c.historyKills+kills, c.answers+r.Asked
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
	seconds := func(name string, all []time.Duration, goal float64) {
		if len(all) > 0 {
			prove.Print(measure.Figure{Name: name, Value: slices.Max(all).Seconds(), Unit: "s", Goal: goal, AtMost: true})
		}
	}
	if c.kills > 0 {
		prove.Count("kills", "kills", c.kills, 600)
		for _, p := range points {
			prove.Count("kills_"+prove.Name(p), "kills", c.points[p], 20)
		}
	}
	if c.brokerKills > 0 {
		prove.Count("broker_kills", "kills", c.brokerKills, 10)
	}
	if c.past > 0 {
		prove.Count("history_past_events", "events", c.past, 200_000)
		prove.Count("history_kills", "kills", c.historyKills, 3)
		prove.Count("history_baselines", "baselines", c.answers, 12)
	}
	seconds("takeover_after_kill_seconds", c.takeoverKills, 10)
	seconds("takeover_after_leave_seconds", c.takeovers, 2)
	prove.Count("lost", "results", c.missing, 0)
	prove.Count("double", "results", c.double, 0)
	prove.Count("open_transactions", "transactions", c.open, 0)
}
