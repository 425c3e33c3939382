package ingest

import (
	"maps"
	"slices"
	"sync"

	"databus/test/ingest/verify"
	"databus/test/prove"
)

// figures collects what the proofs of this process measured.
var figures = &collected{points: map[string]int{}}

type collected struct {
	mu                         sync.Mutex
	verified, kills            int
	lost, double, acks, moves  int
	sameMillisecond, rows, all int
	points                     map[string]int
}

func (c *collected) add(r *verify.Report) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.verified++
	c.lost += r.Lost
	c.double += r.Double
	c.acks += r.Acks
	c.moves += r.Moves
	c.rows += r.Rows
	c.all += r.Records
	c.sameMillisecond += r.SameMillisecond
}

func (c *collected) kill(point string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kills++
	if point != "" {
		c.points[prove.Name(point)]++
	}
}

// print ends a full run.
func (c *collected) print() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.verified == 0 {
		return
	}
	for _, p := range slices.Sorted(maps.Keys(c.points)) {
		prove.Count("kills_"+p, "kills", c.points[p], 2)
	}
	prove.Count("records", "records", c.all, 1000)
	prove.Count("moves", "moves", c.moves, 100)
	prove.Count("a_b_a_in_a_millisecond", "times", c.sameMillisecond, 10)
	prove.Count("rows_compared", "rows", c.rows, 1000)
	prove.Count("acknowledged", "records", c.acks, 1000)
	prove.Count("kills", "kills", c.kills, 200)
	prove.Count("lost", "records", c.lost, 0)
	prove.Count("double", "records", c.double, 0)
}
