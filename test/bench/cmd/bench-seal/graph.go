package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"databus/pkg/graph"
	"databus/schemas/event"
	"databus/test/measure"
)

// hashed is the n-th identifier of a kind; hashes are spread like those of an HMAC.
func hashed(kind graph.Kind, n uint64) graph.Identifier {
	id := graph.Identifier{Kind: kind}
	r := mathrand.NewPCG(uint64(kind), n)
	binary.LittleEndian.PutUint64(id.Hash[:8], r.Uint64())
	binary.LittleEndian.PutUint64(id.Hash[8:], r.Uint64())
	return id
}

// benchGraph builds a graph of n identifiers, opens its file from the disk and looks identifiers up.
func benchGraph(n int, length time.Duration, dir string) ([]measure.Figure, error) {
	path := filepath.Join(dir, "bench.graph")
	build, peak, err := buildGraph(n, path)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	before := heap()
	began := time.Now()
	g, err := graph.OpenFile(path)
	if err != nil {
		return nil, err
	}
	opened := time.Since(began)
	inHeap := max(heap()-before, 0)
	if g.Stats().Identifiers != int64(n) {
		return nil, fmt.Errorf("the graph has %d identifiers instead of %d", g.Stats().Identifiers, n)
	}
	best := 0.0
	for range 3 {
		rate, err := lookUp(g, n, length)
		if err != nil {
			return nil, err
		}
		best = max(best, rate)
	}
	each := func(bytes int64) float64 { return float64(bytes) / float64(n) }
	return []measure.Figure{
		{Name: "graph_identifiers", Value: float64(n), Unit: "identifiers", None: true},
		{Name: "graph_build_seconds", Value: build.Seconds(), Unit: "s", None: true},
		{Name: "graph_build_peak", Value: float64(peak) / (1 << 30), Unit: "GiB", Goal: 8, AtMost: true},
		{Name: "graph_open_seconds", Value: opened.Seconds(), Unit: "s", None: true},
		{Name: "graph_bytes_per_identifier", Value: each(info.Size()), Unit: "bytes", None: true},
		{Name: "graph_heap_bytes_per_identifier", Value: each(inHeap), Unit: "bytes", None: true},
		{Name: "graph_lookups_per_second", Value: best, Unit: "1/s", None: true},
	}, nil
}

// buildGraph writes the file of a graph of n identifiers, n/2 of them mail addresses. A tenth of the pieces name the phone of the
// piece before, and their own stands in a piece of its own, so that all n are there.
func buildGraph(n int, path string) (took time.Duration, peak uint64, err error) {
	set := graph.NewSet()
	for i := range uint64(n / 2) {
		e := graph.Evidence{ID: fmt.Sprintf("account/%032x", i), Source: "account", Relation: event.RelationTogether, Weight: 1, FirstSeen: int64(i),
			Identifiers: []graph.Identifier{hashed(graph.Email, i), hashed(graph.Phone, i)}}
		if i%10 == 9 {
			e.Identifiers[1] = hashed(graph.Phone, i-1)
			set.Put(graph.Evidence{ID: fmt.Sprintf("other/%032x", i), Source: "other", Relation: event.RelationTogether, Weight: 1, FirstSeen: int64(i),
				Identifiers: []graph.Identifier{hashed(graph.Phone, i)}})
		}
		set.Put(e)
	}
	began := time.Now()
	built := set.Build()
	took = time.Since(began)
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	if want := int64(n / 2); built.Stats().Persons != want {
		return 0, 0, fmt.Errorf("the graph has %d persons instead of %d", built.Stats().Persons, want)
	}
	return took, m.Sys, os.WriteFile(path, built.File, 0o600)
}

// lookUp resolves one identifier at a time.
func lookUp(g *graph.Graph, n int, length time.Duration) (float64, error) {
	asked := make([]graph.Identifier, 1<<20)
	for i := range asked {
		asked[i] = hashed(graph.Email, uint64(mathrand.IntN(n))) // half of them are known
	}
	return onCores(length, func(core int, stop func() bool) (n int64, err error) {
		for i := core * len(asked) / cores; !stop(); {
			for range 256 {
				one := asked[i%len(asked) : i%len(asked)+1]
				if _, ok := g.Resolve(one); !ok {
					return n, errors.New("an identifier is not resolved")
				}
				i++
			}
			n += 256
		}
		return n, nil
	})
}
