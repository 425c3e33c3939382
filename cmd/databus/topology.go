package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"databus/schemas"
)

type topologyCmd struct {
	Service  string `arg:"" optional:"" predictor:"service" help:"Show only this service (or api, or cli)."`
	Format   string `enum:"text,mermaid,dot" default:"text" help:"text, mermaid (for Markdown) or dot (for Graphviz)."`
	Overview bool   `help:"Only what joins two services: no changelogs, no inner topics, no dead letters, no operators."`
	Check    string `placeholder:"FILE" predictor:"file" help:"Fail if the generated parts of a Markdown file are stale."`
	Write    string `placeholder:"FILE" predictor:"file" help:"Write the generated parts of a Markdown file anew."`
}

func (topologyCmd) Help() string {
	return `Shows who reads and writes which topic, as the services declare it themselves and the catalogue says of everybody else.
Services meet only in topics, so this is the whole data flow. --check and --write are for ARCHITECTURE.md, where the
picture, the table of topics and the list of packages (of the checkout that the file is in) stand between markers such as
<!-- begin:dataflow --> and <!-- end:dataflow -->.

Examples:

    databus topology

    databus topology limiter --format mermaid

    databus topology --overview --format dot
`
}

// Run prints the graph, or deals with the generated parts of a file.
func (c topologyCmd) Run(g *Globals) error {
	all := topologies()
	switch {
	case c.Check != "" && c.Write != "":
		return errors.New("--check and --write exclude each other")
	case c.Check != "":
		return checkDocument(c.Check, all)
	case c.Write != "":
		return writeDocument(c.Write, all)
	}
	if c.Overview {
		all = overview(all)
	}
	if c.Service != "" {
		var names []string
		var one []schemas.Topology
		for _, t := range all {
			names = append(names, t.Service)
			if t.Service == c.Service {
				one = append(one, t)
			}
		}
		if len(one) == 0 {
			return fmt.Errorf("no service %s: there are %s", c.Service, strings.Join(names, ", "))
		}
		all = one
	}
	var text string
	switch c.Format {
	case "mermaid":
		text = mermaid(all)
	case "dot":
		text = dot(all)
	default:
		text = asText(all)
	}
	_, err := fmt.Fprint(g.Out, text)
	return err
}

// generated are the parts of ARCHITECTURE.md that are derived, by the name in their markers. root is its folder.
func generated(root string, all []schemas.Topology) (map[string]string, error) {
	packages, err := packageTable(root)
	if err != nil {
		return nil, err
	}
	return map[string]string{
		"dataflow": "```mermaid\n" + mermaid(overview(all)) + "```\n",
		"topics":   topicTable(),
		"packages": packages,
	}, nil
}

// render returns the document with every generated part anew.
func render(document string, parts map[string]string) (string, error) {
	for name, text := range parts {
		begin, end := "<!-- begin:"+name+" -->\n", "<!-- end:"+name+" -->"
		head, rest, ok := strings.Cut(document, begin)
		_, tail, closed := strings.Cut(rest, end)
		if !ok || !closed {
			return "", fmt.Errorf("it has no part between %q and %q; put the two lines where the part belongs", strings.TrimSpace(begin), end)
		}
		document = head + begin + text + end + tail
	}
	return document, nil
}

func checkDocument(path string, all []schemas.Topology) error {
	is, want, err := documents(path, all)
	if err != nil {
		return err
	}
	if is != want {
		return fmt.Errorf("%s is older than the catalogue, the topologies or the packages; run `databus topology --write %s`", path, path)
	}
	return nil
}

func writeDocument(path string, all []schemas.Topology) error {
	is, want, err := documents(path, all)
	if err != nil || is == want {
		return err
	}
	if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
		return fmt.Errorf("writing the generated parts: %w", err)
	}
	return nil
}

// documents returns a file as it is and as it should be.
func documents(path string, all []schemas.Topology) (string, string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", "", fmt.Errorf("reading the document: %w", err)
	}
	parts, err := generated(filepath.Dir(path), all)
	if err != nil {
		return "", "", err
	}
	want, err := render(string(b), parts)
	if err != nil {
		return "", "", fmt.Errorf("rendering %s: %w", path, err)
	}
	return string(b), want, nil
}
