package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"databus/schemas"
)

// two services with every kind of edge, and the API layer.
func sample() []schemas.Topology {
	return []schemas.Topology{
		{Service: "api", Edges: []schemas.Edge{{Kind: schemas.Sink, Topic: schemas.UsageEvents}, {Kind: schemas.Source, Topic: schemas.UsageLimits}}},
		{Service: "usage-aggregator", Edges: []schemas.Edge{
			{Kind: schemas.Source, Topic: schemas.UsageEvents, Group: "usage-aggregator", Doc: "counts"},
			{Kind: schemas.Changelog, Topic: schemas.UsageAggregatorChangelog},
			{Kind: schemas.Sink, Topic: schemas.UsageCounts},
			{Kind: schemas.DeadLetter, Topic: "usage.events.dlq"},
		}},
		{Service: "limiter", Edges: []schemas.Edge{
			{Kind: schemas.Source, Topic: schemas.UsageCounts, Group: "limiter"},
			{Kind: schemas.Table, Topic: schemas.UsageContracts},
			{Kind: schemas.Sink, Topic: schemas.UsageLimits},
		}},
		{Service: "cli", Edges: []schemas.Edge{{Kind: schemas.Sink, Topic: schemas.UsageContracts}, {Kind: schemas.Loop, Topic: schemas.IdentityObservations}}},
	}
}

const sampleText = `api
  writes  usage.events  sink
  reads   usage.limits  source

usage-aggregator
  reads   usage.events                source  group usage-aggregator  counts
  both    usage-aggregator.changelog  changelog
  writes  usage.counts                sink
  writes  usage.events.dlq            dead letter

limiter
  reads   usage.counts     source  group limiter
  reads   usage.contracts  table
  writes  usage.limits     sink

cli
  writes  usage.contracts        sink
  both    identity.observations  loop
`

const sampleMermaid = `flowchart LR
  api["API layer, batch"]
  usage_aggregator["usage-aggregator"]
  limiter["limiter"]
  topic_usage_events(["usage.events"])
  topic_usage_counts(["usage.counts"])
  topic_usage_limits(["usage.limits"])
  api --> topic_usage_events
  topic_usage_limits --> api
  topic_usage_events --> usage_aggregator
  usage_aggregator --> topic_usage_counts
  topic_usage_counts --> limiter
  limiter --> topic_usage_limits
`

const sampleDot = `digraph databus {
  rankdir=LR
  "limiter" [shape=box, label="limiter"]
  "topic:usage.contracts" [shape=ellipse, label="usage.contracts"]
  "topic:usage.counts" [shape=ellipse, label="usage.counts"]
  "topic:usage.limits" [shape=ellipse, label="usage.limits"]
  "topic:usage.counts" -> "limiter"
  "topic:usage.contracts" -> "limiter" [style=dashed]
  "limiter" -> "topic:usage.limits"
}
`

func TestPictures(t *testing.T) {
	for name, c := range map[string]struct{ got, want string }{
		"text":             {asText(sample()), sampleText},
		"mermaid overview": {mermaid(overview(sample())), sampleMermaid},
		"dot of a service": {dot(sample()[2:3]), sampleDot},
	} {
		if c.got != c.want {
			t.Errorf("%s:\n%s\nwant:\n%s", name, c.got, c.want)
		}
	}
}

// Everybody whom the catalogue names is in the graph, and what services declare is what the catalogue says of them.
func TestTopologiesAgreeWithTheCatalogue(t *testing.T) {
	for _, topology := range topologies() {
		for _, e := range topology.Edges {
			row, ok := schemas.Lookup(e.Topic)
			if !ok {
				t.Errorf("%s: topic %s is not in the catalogue", topology.Service, e.Topic)
				continue
			}
			if reads(e.Kind) && !slices.Contains(row.Consumers, topology.Service) {
				t.Errorf("%s reads %s, but is not one of its consumers in the catalogue", topology.Service, e.Topic)
			}
			if writes(e.Kind) && !slices.Contains(row.Producers, topology.Service) {
				t.Errorf("%s writes %s, but is not one of its producers in the catalogue", topology.Service, e.Topic)
			}
		}
	}
	for _, row := range schemas.Catalogue() {
		for _, side := range []struct {
			names []string
			way   func(schemas.EdgeKind) bool
			verb  string
		}{{row.Consumers, reads, "read"}, {row.Producers, writes, "write"}} {
			for _, name := range side.names {
				ok := slices.ContainsFunc(topologies(), func(t schemas.Topology) bool {
					return t.Service == name && slices.ContainsFunc(t.Edges, func(e schemas.Edge) bool { return e.Topic == row.Name && side.way(e.Kind) })
				})
				if !ok {
					t.Errorf("the catalogue says that %s does %s %s, its topology does not", name, side.verb, row.Name)
				}
			}
		}
	}
}

func TestTopologyCommand(t *testing.T) {
	show := func(args ...string) result {
		return invoke(t.Context(), strings.NewReader(""), append([]string{"topology"}, args...)...)
	}
	if r := show(); r.code != 0 || !strings.Contains(r.out, "\nlimiter\n") || !strings.Contains(r.out, "\ncli\n") {
		t.Errorf("everything: %+v", r)
	}
	if r := show("limiter", "--format", "mermaid"); r.code != 0 || !strings.Contains(r.out, "topic_usage_counts --> limiter\n") || strings.Contains(r.out, "ingest") {
		t.Errorf("limiter: %+v", r)
	}
	show("nobody").fails(t, 1, "no service nobody: there are api, ingest")

	file := filepath.Join(t.TempDir(), "A.md")
	text := "# A\n<!-- begin:dataflow -->\nstale text\n<!-- end:dataflow -->\nbetween\n<!-- begin:topics -->\n<!-- end:topics -->\n<!-- begin:packages -->\n<!-- end:packages -->\nend\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	source := "// Package stream is the exactly-once loop: a | b. More.\npackage stream\n"
	if err := os.WriteFile(filepath.Join(mkdir(t, filepath.Dir(file), "pkg", "stream"), "doc.go"), []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	show("--check", file).fails(t, 1, "databus topology --write "+file)
	if r := show("--write", file); r.code != 0 {
		t.Errorf("--write: %+v", r)
	}
	if r := show("--check", file); r.code != 0 {
		t.Errorf("--check after --write: %+v", r)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if want := "\n| `pkg/stream` | the exactly-once loop: a \\| b. |\n<!-- end:packages -->\nend\n"; !strings.HasSuffix(string(b), want) {
		t.Errorf("the document ends in %q, want %q", b[max(0, len(b)-100):], want)
	}
	if got := string(b); strings.Contains(got, "stale text") || !strings.Contains(got, "between") || !strings.Contains(got, "\n| usage.counts | account/pack/period (by account) | 8 |") {
		t.Errorf("the document: %s", got)
	}
	if err := os.WriteFile(file, []byte("# A\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	show("--check", file).fails(t, 1, "put the two lines where the part belongs")
}

func TestArchitectureIsCurrent(t *testing.T) {
	if err := checkDocument("../../ARCHITECTURE.md", topologies()); err != nil {
		t.Errorf("%v (from the checkout's top: go run ./cmd/databus topology --write ARCHITECTURE.md)", err)
	}
}
