//go:build servers

package archiver

import (
	"maps"
	"slices"
	"sync"
	"testing"

	"databus/test/archiver/verify"
	"databus/test/prove"
	"databus/test/servers"
)

func TestMain(m *testing.M) {
	servers.Main(m, figures.print, binaries.Remove)
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
	if c.verified == 0 {
		return
	}
	if c.kills > 0 {
		prove.Count("kills", "kills", c.kills, 300)
		for _, p := range slices.Sorted(maps.Keys(c.points)) {
			prove.Count("kills_"+prove.Name(p), "kills", c.points[p], 10)
		}
		prove.Count("replays", "objects", c.replays, 200)
		prove.Count("differing_replays", "objects", c.differed, 0)
	}
	if c.faults > 0 {
		prove.Count("faults", "faults", c.faults, 96)
	}
	prove.Count("lost", "records", c.lost, 0)
	prove.Count("double", "records", c.double, 0)
}
