package ingest

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"

	"databus/test/ingest/verify"
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
		c.points[pointName(point)]++
	}
}

// print ends a full run.
func (c *collected) print() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !*full || c.verified == 0 {
		return
	}
	say := func(name string, value int, unit, goal string) {
		fmt.Fprintf(os.Stdout, "figure: %s %d %s (goal %s)\n", name, value, unit, goal)
	}
	for _, p := range slices.Sorted(maps.Keys(c.points)) {
		say("kills_"+p, c.points[p], "kills", "2")
	}
	say("records", c.all, "records", "1000")
	say("moves", c.moves, "moves", "100")
	say("a_b_a_in_a_millisecond", c.sameMillisecond, "times", "10")
	say("rows_compared", c.rows, "rows", "1000")
	say("acknowledged", c.acks, "records", "1000")
	say("kills", c.kills, "kills", "200")
	say("lost", c.lost, "records", "0")
	say("double", c.double, "records", "0")
}
