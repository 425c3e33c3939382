package main

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"databus/schemas"
)

// reads and writes say which way data flows along an edge; a service's own topics flow both ways.
func reads(k schemas.EdgeKind) bool  { return k != schemas.Sink && k != schemas.DeadLetter }
func writes(k schemas.EdgeKind) bool { return k != schemas.Source && k != schemas.Table }

// overview keeps what joins two different services.
func overview(all []schemas.Topology) []schemas.Topology {
	users := map[string][]string{}
	for _, t := range all {
		for _, e := range t.Edges {
			if t.Service != "cli" && !slices.Contains(users[e.Topic], t.Service) {
				users[e.Topic] = append(users[e.Topic], t.Service)
			}
		}
	}
	var kept []schemas.Topology
	for _, t := range all {
		if t.Service == "cli" {
			continue
		}
		edges := slices.DeleteFunc(slices.Clone(t.Edges), func(e schemas.Edge) bool {
			return e.Kind == schemas.DeadLetter || e.Kind == schemas.Changelog || len(users[e.Topic]) < 2
		})
		if len(edges) > 0 {
			kept = append(kept, schemas.Topology{Service: t.Service, Edges: edges})
		}
	}
	return kept
}

func asText(all []schemas.Topology) string {
	var b strings.Builder
	for i, t := range all {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintln(&b, t.Service)
		w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
		for _, e := range t.Edges {
			way := "both"
			switch {
			case !writes(e.Kind):
				way = "reads"
			case !reads(e.Kind):
				way = "writes"
			}
			row := fmt.Sprintf("  %s\t%s\t%s", way, e.Topic, e.Kind)
			for _, more := range []string{group(e), e.Doc} {
				if more != "" {
					row += "\t" + more
				}
			}
			fmt.Fprintln(w, row)
		}
		_ = w.Flush() // a strings.Builder does not fail
	}
	return b.String()
}

func group(e schemas.Edge) string {
	if e.Group == "" {
		return ""
	}
	return "group " + e.Group
}

// An arrow is one line of a picture: from the writer to the topic or from the topic to the reader.
type arrow struct {
	from, to string
	dashed   bool // not through a consumer group: a table, a changelog
}

// picture lists nodes in the order of the data flow, and every arrow once.
func picture(all []schemas.Topology) (services, topics []string, arrows []arrow) {
	seen := map[arrow]bool{}
	add := func(a arrow) {
		if !seen[a] {
			seen[a] = true
			arrows = append(arrows, a)
		}
	}
	used := map[string]bool{}
	for _, t := range all {
		services = append(services, t.Service)
		for _, e := range t.Edges {
			used[e.Topic] = true
			dashed := e.Kind == schemas.Table || e.Kind == schemas.Changelog
			if writes(e.Kind) {
				add(arrow{t.Service, "topic:" + e.Topic, dashed})
			}
			if reads(e.Kind) {
				add(arrow{"topic:" + e.Topic, t.Service, dashed})
			}
		}
	}
	for _, t := range schemas.WithDeadLetters() {
		if used[t.Name] {
			topics = append(topics, t.Name)
		}
	}
	return services, topics, arrows
}

// title is how a picture names a service.
func title(service string) string {
	switch service {
	case "api":
		return "API layer, batch"
	case "cli":
		return "operators"
	}
	return service
}

// mermaid returns a flowchart: services are boxes, topics rounded, tables and changelogs dashed.
func mermaid(all []schemas.Topology) string {
	id := func(node string) string {
		return strings.NewReplacer(".", "_", "-", "_", ":", "_").Replace(node)
	}
	services, topics, arrows := picture(all)
	var b strings.Builder
	b.WriteString("flowchart LR\n")
	for _, s := range services {
		fmt.Fprintf(&b, "  %s[\"%s\"]\n", id(s), title(s))
	}
	for _, t := range topics {
		fmt.Fprintf(&b, "  %s([\"%s\"])\n", id("topic:"+t), t)
	}
	for _, a := range arrows {
		line := "-->"
		if a.dashed {
			line = "-.->"
		}
		fmt.Fprintf(&b, "  %s %s %s\n", id(a.from), line, id(a.to))
	}
	return b.String()
}

// dot returns the same picture for Graphviz.
func dot(all []schemas.Topology) string {
	services, topics, arrows := picture(all)
	var b strings.Builder
	b.WriteString("digraph databus {\n  rankdir=LR\n")
	for _, s := range services {
		fmt.Fprintf(&b, "  %q [shape=box, label=%q]\n", s, title(s))
	}
	for _, t := range topics {
		fmt.Fprintf(&b, "  %q [shape=ellipse, label=%q]\n", "topic:"+t, t)
	}
	for _, a := range arrows {
		style := ""
		if a.dashed {
			style = " [style=dashed]"
		}
		fmt.Fprintf(&b, "  %q -> %q%s\n", a.from, a.to, style)
	}
	b.WriteString("}\n")
	return b.String()
}

// topicTable is the catalogue as a Markdown table.
func topicTable() string {
	var b strings.Builder
	b.WriteString("| topic | key | partitions | value | kept | from → to | what it carries |\n|---|---|---|---|---|---|---|\n")
	for _, t := range schemas.Catalogue() {
		key := t.Key
		if t.PartitionBy > 0 {
			key += " (by " + strings.Join(strings.Split(t.Key, "/")[:t.PartitionBy], "/") + ")"
		}
		dead := ""
		if t.DeadLetters {
			dead = " Has a dead-letter topic."
		}
		fmt.Fprintf(&b, "| %s | %s | %d | %s | %s | %s → %s | %s%s |\n", t.Name, key, t.Partitions, t.Schema, cleanup(t),
			strings.Join(t.Producers, ", "), strings.Join(t.Consumers, ", "), t.Doc, dead)
	}
	return b.String()
}
