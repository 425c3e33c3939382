package usage

import (
	"flag"
	"fmt"
	"os"
	"sync"
	"time"

	"databus/test/usage/verify"
)

var full = flag.Bool("full", false, "run the proofs in full size")

// size is the full size of something with -full, else the small one.
func size(small, all int) int {
	if *full {
		return all
	}
	return small
}

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

func longest(all []time.Duration) (most time.Duration) {
	for _, d := range all {
		most = max(most, d)
	}
	return most
}

// print ends a full run.
func (c *collected) print() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !*full || c.verified == 0 {
		return
	}
	say := func(name string, value any, unit, goal string) {
		fmt.Fprintf(os.Stdout, "figure: %s %v %s (goal %s)\n", name, value, unit, goal)
	}
	if c.kills > 0 {
		say("kills", c.kills, "kills", "600")
		for _, p := range points {
			say("kills_"+pointName(p), c.points[p], "kills", "20")
		}
	}
	if c.brokerKills > 0 {
		say("broker_kills", c.brokerKills, "kills", "10")
	}
	if len(c.takeoverKills) > 0 {
		say("takeover_after_kill_seconds", fmt.Sprintf("%.2f", longest(c.takeoverKills).Seconds()), "s", "10")
	}
	if len(c.takeovers) > 0 {
		say("takeover_after_leave_seconds", fmt.Sprintf("%.2f", longest(c.takeovers).Seconds()), "s", "2")
	}
	say("lost", c.missing, "results", "0")
	say("double", c.double, "results", "0")
	say("open_transactions", c.open, "transactions", "0")
}
