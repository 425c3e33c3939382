package main

import (
	"slices"

	"databus/cmd/databus/internal/local"
	"databus/schemas"
)

// services returns the topologies that the services declare themselves.
func services() []schemas.Topology {
	var all []schemas.Topology
	for _, s := range local.Services() {
		all = append(all, s.Topology())
	}
	return all
}

// topologies returns the place of everybody in the data flow, in the order in which data flows: what services declare,
// and what the catalogue says about everybody else, such as the API layer and operators' commands.
func topologies() []schemas.Topology {
	all := services()
	for _, t := range schemas.Catalogue() {
		for _, name := range slices.Concat(t.Producers, t.Consumers) {
			if !slices.ContainsFunc(all, func(known schemas.Topology) bool { return known.Service == name }) {
				all = append(all, fromCatalogue(name))
			}
		}
	}
	order := []string{"api", "ingest", "archiver", "rebuilder", "catchup", "usage-aggregator", "usage-history", "limiter"}
	slices.SortStableFunc(all, func(a, b schemas.Topology) int { return rank(order, a.Service) - rank(order, b.Service) })
	return all
}

func rank(order []string, name string) int {
	if i := slices.Index(order, name); i >= 0 {
		return i
	}
	return len(order)
}

// fromCatalogue is what the catalogue knows about a producer or consumer: which topics, but not how it reads them.
func fromCatalogue(name string) schemas.Topology {
	topology := schemas.Topology{Service: name}
	add := func(kind schemas.EdgeKind, topic string) {
		topology.Edges = append(topology.Edges, schemas.Edge{Kind: kind, Topic: topic})
	}
	for _, t := range schemas.Catalogue() {
		reads, writes := slices.Contains(t.Consumers, name), slices.Contains(t.Producers, name)
		switch {
		case reads && writes:
			add(schemas.Loop, t.Name)
		case reads:
			add(schemas.Source, t.Name)
		case writes:
			add(schemas.Sink, t.Name)
		}
		if reads && t.DeadLetters {
			add(schemas.DeadLetter, t.DeadLetter())
		}
		if name == "cli" && t.DeadLetters {
			add(schemas.Source, t.DeadLetter())
		}
	}
	return topology
}
