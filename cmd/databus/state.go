package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"

	"databus/pkg/state"
	"databus/services/ingest"
	"databus/services/limiter"
	usageaggregator "databus/services/usage-aggregator"
)

type stateCmd struct {
	Inspect stateInspectCmd `cmd:"" help:"Show what a service's state directory holds. The service must be stopped."`
}

type stateInspectCmd struct {
	StateDir string `arg:"" name:"dir" predictor:"dir" help:"State directory, or one that holds it."`
	Store    string `placeholder:"STORE" help:"List the rows of this store, one JSON object per line."`
	Prefix   string `placeholder:"KEY" help:"With --store: only rows whose keys begin so, such as acme/."`
	Max      int    `short:"n" default:"1000" placeholder:"N" help:"With --store: list at most so many rows."`
	Format   string `enum:"text,json" default:"text" help:"Of the overview: text, or json, one object."`
}

func (stateInspectCmd) Help() string {
	return `Reads a state directory without changing it and without any server: whose it is, and for each partition the rows and
bytes of every store, the offset of the changelog and the offsets of the inputs that the rows stand for. A directory that a
running instance holds is refused: stop the instance, or inspect a copy made while it was stopped.

With --store the rows are listed: partition, key and, where the store's form is known, the row as JSON; otherwise its bytes
in base64. Keys of ingest's stores are pseudonyms.

Examples (the state of "databus dev", after it was stopped):

    databus state inspect data/state/usage-aggregator

    databus state inspect data/state/limiter --format json

    databus state inspect data/state/usage-aggregator --store counts --prefix acme/
`
}

// inspectors know the stores of each service.
func inspectors() map[string]func(store string, key, value []byte) (any, bool, error) {
	return map[string]func(string, []byte, []byte) (any, bool, error){
		usageaggregator.Name: usageaggregator.InspectRow,
		limiter.Name:         limiter.InspectRow,
		"ingest.evidence":    ingest.InspectRow,
	}
}

// stateFile is what makes a directory a state directory.
const stateFile = "STATE"

// find returns the state directory that a directory is or holds.
func (c stateInspectCmd) find() (string, error) {
	var found []string
	err := filepath.WalkDir(c.StateDir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !d.IsDir() && d.Name() == stateFile {
			found = append(found, filepath.Dir(path))
		}
		if rel, err := filepath.Rel(c.StateDir, path); err == nil && d.IsDir() && strings.Count(rel, string(filepath.Separator)) >= 4 {
			return fs.SkipDir
		}
		return nil
	})
	switch {
	case err != nil:
		return "", fmt.Errorf("looking for state: %w", err)
	case len(found) == 0:
		return "", fmt.Errorf("neither %s nor a directory below it is a state directory: there is no file %s", c.StateDir, stateFile)
	case len(found) > 1:
		return "", fmt.Errorf("%s holds several state directories, name one of them: %s", c.StateDir, strings.Join(found, ", "))
	}
	return found[0], nil
}

// Run prints the overview or the rows.
func (c stateInspectCmd) Run(g *Globals) (err error) {
	if c.Prefix != "" && c.Store == "" {
		return errors.New("--prefix is for the rows of a store: name it with --store")
	}
	dir, err := c.find()
	if err != nil {
		return err
	}
	service, instance, format, err := state.Owner(nil, dir)
	if err != nil {
		return err
	}
	db, err := state.Open(state.Options{Dir: dir, Service: service, Instance: instance, ReadOnly: true, CacheBytes: 32 << 20})
	if locked(err) {
		return fmt.Errorf("%s is in use by the running instance %q of %s: stop it first, or inspect a copy that was made while it was stopped", dir, instance, service)
	}
	if err != nil {
		return err
	}
	defer func() {
		if cerr := db.Close(); err == nil {
			err = cerr
		}
	}()
	if c.Store != "" {
		return c.rows(g, db, service)
	}
	return c.overview(g, db, stateView{Dir: dir, Service: service, Instance: instance, Format: format, DiskBytes: db.DiskBytes(), Partitions: []statePartition{}})
}

// locked says whether another process, or this one, holds the database's lock.
func locked(err error) bool {
	if err == nil {
		return false
	}
	return errors.Is(err, syscall.EAGAIN) || strings.Contains(err.Error(), "lock held by current process")
}

// A stateView is the overview; its JSON is the command's output.
type stateView struct {
	Dir        string           `json:"dir"`
	Service    string           `json:"service"`
	Instance   string           `json:"instance"`
	Format     int              `json:"format"`
	DiskBytes  uint64           `json:"disk_bytes"`
	Partitions []statePartition `json:"partitions"`
}

type statePartition struct {
	Partition int32 `json:"partition"`
	state.Position
	Bytes  int64       `json:"bytes"`
	Stores []storeView `json:"stores"`
}

type storeView struct {
	Store string `json:"store"`
	Rows  int64  `json:"rows"`
	Bytes int64  `json:"bytes"`
}

func (c stateInspectCmd) overview(g *Globals, db *state.DB, v stateView) error {
	partitions, err := db.Partitions()
	if err != nil {
		return err
	}
	for _, p := range partitions {
		at, _, err := db.Position(p)
		if err != nil {
			return err
		}
		sizes, err := db.Sizes(p)
		if err != nil {
			return err
		}
		part := statePartition{Partition: p, Position: at, Stores: []storeView{}}
		for _, s := range sizes {
			part.Bytes += s.Bytes
			part.Stores = append(part.Stores, storeView{s.Store, s.Rows, s.Bytes})
		}
		v.Partitions = append(v.Partitions, part)
	}
	if c.Format == "json" {
		printJSON(g.Out, v)
		return nil
	}
	fmt.Fprintf(g.Out, "%s\nservice %s, instance %s, format version %d, %d partitions, %s on disk\n", v.Dir, v.Service, v.Instance, v.Format, len(v.Partitions), bytesText(int64(v.DiskBytes)))
	w := tabwriter.NewWriter(g.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "PARTITION\tLOGS\tINPUTS\tROWS\tBYTES\tWRITTEN")
	for _, p := range v.Partitions {
		at := func(offsets map[string]int64) string {
			var all []string
			for _, topic := range slices.Sorted(maps.Keys(offsets)) {
				all = append(all, fmt.Sprintf("%s@%d", topic, offsets[topic]))
			}
			return orDash(all)
		}
		var rows []string
		for _, s := range p.Stores {
			rows = append(rows, fmt.Sprintf("%s %d", s.Store, s.Rows))
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\n", p.Partition, at(p.Logs), at(p.Inputs), orDash(rows), bytesText(p.Bytes), moment(p.At))
	}
	return w.Flush()
}

// rows lists the rows of a store.
func (c stateInspectCmd) rows(g *Globals, db *state.DB, service string) error {
	partitions, err := db.Partitions()
	if err != nil {
		return err
	}
	stores := map[string]bool{}
	for _, p := range partitions {
		sizes, err := db.Sizes(p)
		if err != nil {
			return err
		}
		for _, s := range sizes {
			stores[s.Store] = true
		}
	}
	if !stores[c.Store] {
		return fmt.Errorf("there are no rows of store %s: there are %s", c.Store, orDash(slices.Sorted(maps.Keys(stores))))
	}
	describe := inspectors()[service]
	listed, more := 0, false
	for _, p := range partitions {
		r, err := db.NewReader(p)
		if err != nil {
			return err
		}
		var failed error
		err = r.Scan(c.Store, []byte(c.Prefix), func(key, value []byte) bool {
			if listed == c.Max {
				more = true
				return false
			}
			listed++
			line := map[string]any{"partition": p}
			if k, b := text(key); k != nil {
				line["key"] = *k
			} else {
				line["key_bytes"] = b
			}
			var row any
			known := false
			if describe != nil {
				row, known, failed = describe(c.Store, key, value)
			}
			if failed != nil {
				failed = fmt.Errorf("partition %d, key %q: %w", p, key, failed)
				return false
			}
			if known {
				line["row"] = row
			} else {
				line["bytes"] = append([]byte{}, value...)
			}
			printJSON(g.Out, line)
			return true
		})
		if err := errors.Join(failed, err, r.Close()); err != nil {
			return err
		}
		if more {
			fmt.Fprintf(g.Err, "databus: there are more than %d rows; --max shows more\n", c.Max)
			break
		}
	}
	return nil
}

func orDash(parts []string) string {
	if len(parts) == 0 {
		return "-"
	}
	return strings.Join(parts, " ")
}

// bytesText prints a size for people.
func bytesText(n int64) string {
	switch {
	case n >= 10<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n >= 10<<10:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%d B", n)
}
