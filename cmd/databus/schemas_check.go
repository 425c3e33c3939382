package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/twmb/avro"

	"databus/schemas"
	"databus/schemas/codec"
)

type schemasCheckCmd struct {
	AgainstGit string `default:"HEAD" placeholder:"REV" help:"Compare with this revision in git (default: HEAD); empty: with none."`
	Live       bool   `help:"Also ask the registry of the running 'databus dev' (or the default one) when --registry names none."`
	Source     string `placeholder:"DIR" type:"existingdir" help:"Read the .avsc files of this directory instead of those built into the program."`
}

func (schemasCheckCmd) Help() string {
	return `Checks that each schema can read what its earlier versions wrote: against the version in git, in the working directory's
repository (or that of --source), and against a live registry if --registry or DATABUS_REGISTRY names one or --live is
given. Each finding names the schema, the place in it and what to do; any finding makes the exit code 1. In a pipeline, compare with
the commit that is in production, such as HEAD~1 or origin/main.

Examples:

    databus schemas check

    databus schemas check --against-git HEAD~1 --source schemas/avro

    databus schemas check --against-git '' --live
`
}

// Run prints findings, one a line.
func (c schemasCheckCmd) Run(ctx context.Context, g *Globals) error {
	live := c.Live || g.Registry != ""
	if c.AgainstGit == "" && !live {
		return errors.New("nothing to check against: give --against-git, --registry or --live")
	}
	now, err := c.schemas()
	if err != nil {
		return err
	}
	var findings, against []string
	if c.AgainstGit != "" {
		before, err := c.before(ctx)
		if err != nil {
			return err
		}
		findings = append(findings, compareAll(before, now, usedBy())...)
		against = append(against, fmt.Sprintf("%d schemas of %s", len(before), c.AgainstGit))
	}
	if live {
		registry, url, err := g.registry()
		if err != nil {
			return err
		}
		found, err := checkRegistry(ctx, registry, now)
		if err != nil {
			return g.registryHint(err)
		}
		findings = append(findings, found...)
		against = append(against, "the registry at "+url)
	}
	for _, f := range findings {
		fmt.Fprintln(g.Out, f)
	}
	if len(findings) > 0 {
		return fmt.Errorf("%d schemas do not fit; %s", len(findings), advice)
	}
	fmt.Fprintf(g.Out, "%d schemas can read what was written with %s\n", len(now), strings.Join(against, " and "))
	return nil
}

// schemas returns the schemas to check, by name.
func (c schemasCheckCmd) schemas() (map[string]string, error) {
	all := map[string]string{}
	if c.Source == "" {
		for _, name := range schemas.Schemas() {
			all[name], _ = schemas.Avro(name)
		}
		return all, nil
	}
	files, err := filepath.Glob(filepath.Join(c.Source, "*.avsc"))
	if err != nil {
		return nil, fmt.Errorf("listing %s: %w", c.Source, err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return nil, fmt.Errorf("reading a schema: %w", err)
		}
		all[strings.TrimSuffix(filepath.Base(f), ".avsc")] = string(b)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s holds no .avsc files; name the directory that does with --source", c.Source)
	}
	return all, nil
}

// before returns the schemas of the revision, by name.
func (c schemasCheckCmd) before(ctx context.Context) (map[string]string, error) {
	dir := c.Source
	if dir == "" {
		top, err := git(ctx, ".", "rev-parse", "--show-toplevel")
		if err != nil {
			return nil, fmt.Errorf("looking for the repository: %w; run this inside of it, or compare with a registry only: --against-git '' --registry URL", err)
		}
		dir = filepath.Join(strings.TrimSpace(string(top)), "schemas", "avro")
	}
	if _, err := git(ctx, dir, "rev-parse", "--verify", "--quiet", "--end-of-options", c.AgainstGit+"^{commit}"); err != nil {
		return nil, fmt.Errorf("git knows no commit %s in %s; name another with --against-git (a shallow clone lacks history)", c.AgainstGit, dir)
	}
	list, err := git(ctx, dir, "ls-tree", "--name-only", c.AgainstGit)
	if err != nil {
		return nil, fmt.Errorf("listing the schemas of %s: %w", c.AgainstGit, err)
	}
	all := map[string]string{}
	for _, file := range strings.Fields(string(list)) {
		name, ok := strings.CutSuffix(file, ".avsc")
		if !ok {
			continue
		}
		b, err := git(ctx, dir, "show", c.AgainstGit+":./"+file)
		if err != nil {
			return nil, fmt.Errorf("reading %s of %s: %w", file, c.AgainstGit, err)
		}
		all[name] = string(b)
	}
	return all, nil
}

func git(ctx context.Context, dir string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "git", append([]string{"-C", dir}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		if s := strings.TrimSpace(stderr.String()); s != "" {
			return nil, fmt.Errorf("git %s: %s", args[0], oneLine(errors.New(s)))
		}
		return nil, fmt.Errorf("git %s: %w", args[0], err)
	}
	return out, nil
}

// usedBy returns the topics of the catalogue by schema.
func usedBy() map[string][]string {
	topics := map[string][]string{}
	for _, t := range schemas.Catalogue() {
		topics[t.Schema] = append(topics[t.Schema], t.Name)
	}
	return topics
}

// compareAll returns what is wrong with the schemas now, compared with those before. A schema that no topic uses any
// more may go.
func compareAll(before, now map[string]string, usedBy map[string][]string) []string {
	var findings []string
	for _, name := range slices.Sorted(maps.Keys(before)) {
		text, ok := now[name]
		if !ok {
			if topics := usedBy[name]; len(topics) > 0 {
				findings = append(findings, fmt.Sprintf("%s.avsc was removed, but %s is written with it; restore it", name, strings.Join(topics, ", ")))
			}
			continue
		}
		if err := compareOne(before[name], text); err != nil {
			findings = append(findings, fmt.Sprintf("%s.avsc: %s", name, oneLine(err)))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(now)) {
		if _, ok := before[name]; !ok {
			if _, err := avro.Parse(now[name]); err != nil {
				findings = append(findings, fmt.Sprintf("%s.avsc does not parse: %s", name, oneLine(err)))
			}
		}
	}
	return findings
}

// compareOne says why a schema cannot read what the older one wrote.
func compareOne(before, now string) error {
	writer, err := avro.Parse(before)
	if err != nil {
		return fmt.Errorf("the older version does not parse: %w", err)
	}
	reader, err := avro.Parse(now)
	if err != nil {
		return fmt.Errorf("it does not parse: %w", err)
	}
	// The name is how a consumer knows that an event belongs to its topic, so it stays, with its namespace.
	if w, r := writer.Root(), reader.Root(); w.Name != r.Name || w.Namespace != r.Namespace {
		return fmt.Errorf("at (root): the name was %s.%s and is %s.%s; consumers would refuse the events as another topic's: keep the name", w.Namespace, w.Name, r.Namespace, r.Name)
	}
	var wrong *avro.CompatibilityError
	switch err := avro.CheckCompatibility(writer, reader); {
	case errors.As(err, &wrong):
		return fmt.Errorf("at %s: the type was %s and is %s: %s", wrong.Path, wrong.WriterType, wrong.ReaderType, wrong.Detail)
	default:
		return err
	}
}

// checkRegistry asks the registry whether it would take each topic's schema.
func checkRegistry(ctx context.Context, r codec.Registry, now map[string]string) ([]string, error) {
	var findings []string
	for _, t := range schemas.Catalogue() {
		text, ok := now[t.Schema]
		if !ok {
			continue // removed: the comparison with git says so
		}
		switch err := r.Compatible(ctx, t.Subject(), text); {
		case errors.Is(err, codec.ErrIncompatible):
			findings = append(findings, fmt.Sprintf("%s.avsc: %s", t.Schema, oneLine(err)))
		case err != nil:
			return nil, err
		}
	}
	return findings, nil
}
