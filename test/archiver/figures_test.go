//go:build servers

package archiver

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"databus/test/archiver/verify"
	"databus/test/servers"
)

func TestMain(m *testing.M) {
	servers.Main(m, figures.print, func() {
		if built.dir != "" {
			_ = os.RemoveAll(built.dir)
		}
	})
}

// figures collects what the proofs of this process measured.
var figures collected

type collected struct {
	mu                sync.Mutex
	verified          int
	kills, faults     int
	points            map[string]int
	lost, double      int64
	replays, differed int
}

func (c *collected) add(r *verify.Report) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.verified++
	c.lost += r.Lost
	c.double += r.Double
}

func (c *collected) kill(point string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kills++
	if c.points == nil {
		c.points = map[string]int{}
	}
	if point == "" {
		point = "at random"
	}
	c.points[point]++
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
		say("kills", c.kills, "kills", "300")
		for _, p := range slices.Sorted(maps.Keys(c.points)) {
			say("kills_"+strings.ReplaceAll(p, " ", "_"), c.points[p], "kills", "10")
		}
		say("replays", c.replays, "objects", "200")
		say("differing_replays", c.differed, "objects", "0")
	}
	if c.faults > 0 {
		say("faults", c.faults, "faults", "96")
	}
	say("lost", c.lost, "records", "0")
	say("double", c.double, "records", "0")
}
