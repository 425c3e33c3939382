package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"databus/cmd/databus/internal/load"
	"databus/cmd/databus/internal/local"
	"databus/cmd/databus/internal/people"
	"databus/cmd/databus/internal/story"
	"databus/services/ingest/client"
)

type demoCmd struct {
	stackFlags
	Records         int      `default:"20000" help:"How many records to generate, at least 200."`
	Seed            uint64   `default:"1" help:"Seed of the generator."`
	CSV             string   `placeholder:"FILE" help:"Load this CSV file instead of generated records."`
	Account         string   `default:"acme-travel" help:"With --csv: the account of its records."`
	RecordID        string   `default:"record_id" placeholder:"COLUMN" help:"With --csv: the column of the customer's own id."`
	Map             []string `placeholder:"FIELD=COLUMN" help:"With --csv: where a field comes from, such as birth_date=date_of_birth; other columns keep their names."`
	Limit           int      `default:"500" help:"Look-ups in the contract that is used up."`
	RestartServices bool     `help:"Stop and start every service in the middle of the load and of the rebuild; it must change nothing."`
	Format          string   `enum:"text,json" default:"text" help:"text: a story; json: its outcome on standard output."`
}

func (demoCmd) Help() string {
	return `Plays the whole main job once, on embedded parts or, with --external, on real servers: customer records become persons,
an account uses up its contract and is refused, a database is rebuilt from the archive while writes go on and is compared
with the live one row by row, and a newer graph merges and splits persons. Ends with exit code 1 if anything differs from
what is promised. Without --dir, it uses a new directory below ./data, and leaves it to explore.

Examples:

    databus demo
    databus demo --records 2000 --restart-services
    databus demo --csv customers.csv --record-id id --map birth_date=born --map phone=tel
`
}

// Run plays the story.
func (c demoCmd) Run(ctx context.Context, g *Globals) error {
	if c.Records < 200 {
		return fmt.Errorf("--records %d: at least 200 are needed to have some to change", c.Records)
	}
	dir, err := demoDir(g.Dir)
	if err != nil {
		return err
	}
	cfg, err := c.config(g, dir)
	if err != nil {
		return err
	}
	log, closeLog, err := logFile(dir)
	if err != nil {
		return err
	}
	defer closeLog() //nolint:errcheck // nothing is written any more
	cfg.Log = log
	t := newTeller(g.Err, g.Out, c.Format == "json")
	begin := time.Now()
	stack, err := local.Start(ctx, cfg)
	if err != nil {
		return err
	}
	outcome, err := c.tell(ctx, stack, t, dir, begin)
	if cerr := stack.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("%w; the log is %s", err, filepath.Join(dir, "databus.log"))
	}
	if c.Format == "json" {
		enc := json.NewEncoder(g.Out)
		enc.SetIndent("", "  ")
		return enc.Encode(outcome)
	}
	fmt.Fprintf(g.Out, `
All of it is in %[1]s: broker, registry, bucket, database, keys and log. To go on with it:

    go run ./cmd/databus --dir %[1]s dev

and in another terminal:

    go run ./cmd/databus --dir %[1]s consume usage.thresholds
    go run ./cmd/databus --dir %[1]s consume databus.databases
    go run ./cmd/databus topology --format mermaid
    find %[1]s/bucket -name '*.parquet'      # read them with DuckDB, Spark or Athena
`, dir)
	return nil
}

func (c demoCmd) tell(ctx context.Context, stack *local.Stack, t *teller, dir string, begin time.Time) (*story.Outcome, error) {
	unpublish, err := publish(stack, dir)
	if err != nil {
		return nil, err
	}
	defer unpublish()
	defer os.Remove(filepath.Join(dir, devFile)) //nolint:errcheck // it names a process that ends
	ready, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if err := stack.Ready(ready); err != nil {
		return nil, err
	}
	t.Say("every service is ready after %.1f s", time.Since(begin).Seconds())
	o := story.Options{Account: c.Account, Limit: c.Limit, RestartServices: c.RestartServices, Teller: t}
	if c.CSV == "" {
		records := people.Generate(c.Seed, c.Records)
		o.Account, o.Total = people.Accounts()[0], len(records)
		o.Source = func() (load.Source, error) { return &invented{records: records}, nil }
	} else {
		fields, err := load.ParseFields(c.Map)
		if err != nil {
			return nil, err
		}
		if o.Total, err = load.Count(load.FormatCSV, c.CSV); err != nil {
			return nil, err
		}
		o.Source = func() (load.Source, error) {
			return load.OpenCSV(c.CSV, load.Mapping{Account: c.Account, RecordID: c.RecordID, Fields: fields, Run: "demo"})
		}
	}
	return story.Run(ctx, stack, o)
}

// invented is a source of generated records.
type invented struct {
	records []people.Record
	next    int
}

func (g *invented) Next() (load.Record, error) {
	if g.next == len(g.records) {
		return load.Record{}, io.EOF
	}
	r := g.records[g.next]
	g.next++
	fields := make(map[string]string, len(r.Fields)) // the story may change them
	for k, v := range r.Fields {
		fields[k] = v
	}
	return load.Record{Account: r.Account, Record: client.Record{RequestID: fmt.Sprintf("demo/%d", g.next), RecordID: r.RecordID, Fields: fields}}, nil
}

// demoDir returns the directory to use: the one that was named, or the next new one below the default.
func demoDir(named string) (string, error) {
	if named != defaultDir {
		return named, nil
	}
	for i := 1; ; i++ {
		dir := filepath.Join(defaultDir, fmt.Sprintf("demo-%d", i))
		if err := os.MkdirAll(defaultDir, 0o755); err != nil {
			return "", fmt.Errorf("making a directory for the demo: %w", err)
		}
		err := os.Mkdir(dir, 0o755)
		if err == nil {
			return dir, nil
		}
		if !os.IsExist(err) || i > 9999 {
			return "", fmt.Errorf("making a directory for the demo: %w", err)
		}
	}
}

// teller tells the story to a person, with bars on a terminal, or keeps quiet for a program.
type teller struct {
	bars  io.Writer
	lines io.Writer
	tty   bool
	begin time.Time
}

func newTeller(bars, lines io.Writer, quiet bool) *teller {
	t := &teller{bars: bars, lines: lines, begin: time.Now()}
	if quiet {
		t.lines = bars
	}
	if f, ok := bars.(*os.File); ok {
		t.tty = term.IsTerminal(int(f.Fd()))
	}
	return t
}

// Say prints a line with the time since the beginning.
func (t *teller) Say(format string, args ...any) {
	fmt.Fprintf(t.lines, "%5.1f s  %s\n", time.Since(t.begin).Seconds(), fmt.Sprintf(format, args...))
}

// Step shows a bar on a terminal.
func (t *teller) Step(title string, total int) story.Bar {
	if !t.tty {
		return silent{}
	}
	if total == 0 {
		total = -1
	}
	return bar{progressbar.NewOptions(total, progressbar.OptionSetWriter(t.bars), progressbar.OptionSetDescription("         "+title),
		progressbar.OptionShowCount(), progressbar.OptionClearOnFinish(), progressbar.OptionThrottle(100*time.Millisecond))}
}

type silent struct{}

func (silent) Add(int) {}
func (silent) Done()   {}

type bar struct{ *progressbar.ProgressBar }

func (b bar) Add(n int) { _ = b.ProgressBar.Add(n) } // a bar that cannot be drawn is no failure
func (b bar) Done()     { _ = b.Finish() }
