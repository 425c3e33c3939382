package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"databus/cmd/databus/internal/load"
	"databus/pkg/graph"
	"databus/schemas"
	"databus/services/ingest/client"
)

// fileFlags name the file to load.
type fileFlags struct {
	CSV     string `required:"" xor:"file" predictor:"csv" placeholder:"FILE" help:"CSV file with a header line."`
	NDJSON  string `name:"ndjson" required:"" xor:"file" placeholder:"FILE" help:"File with a JSON object a line; members of nested objects are columns named a.b."`
	Parquet string `required:"" xor:"file" placeholder:"FILE" help:"Parquet file; columns of groups are named a.b, those of lists are left out."`
}

// input is the file that was named, and its format.
func (f fileFlags) input() (format, path string) {
	switch {
	case f.NDJSON != "":
		return load.FormatNDJSON, f.NDJSON
	case f.Parquet != "":
		return load.FormatParquet, f.Parquet
	}
	return load.FormatCSV, f.CSV
}

type importCmd struct {
	fileFlags
	Account   string   `required:"" placeholder:"ID" help:"Account that the records belong to."`
	RecordID  string   `default:"record_id" placeholder:"COLUMN" help:"Column of the customer's own id."`
	Map       []string `placeholder:"FIELD=COLUMN" help:"Where a field comes from, such as birth_date=date_of_birth; other columns keep their names."`
	Composite []string `placeholder:"FACT+FACT" sep:"none" help:"A composite identifier of several fields, such as 'soundex(surname)+birth_date+postcode', or person for the usual ones; may be repeated."`
	RunName   string   `name:"run" placeholder:"NAME" help:"Name of the load: sent again under the same name, a line is a repeat. Default: a digest of the file and the composites."`
	API       string   `env:"DATABUS_API" placeholder:"URL" help:"Base URL of ingest's API; default: that of the running 'databus dev'."`
	Batch     int      `default:"500" help:"Records of a call, 1 to 10000."`
	Parallel  int      `default:"4" help:"Calls under way at the same time, 1 to 64."`
	Format    string   `enum:"text,json" default:"text" help:"Of the summary."`
}

func (importCmd) Help() string {
	return `Loads customer records through ingest's API, which resolves and seals them onto the Databus. Request ids are made of the
load's name and the line, so that a load that broke off can be sent again and changes nothing that it had done (within the
24 hours in which repeats are known). With --composite two records are one person's where they agree on all facts of one: fields,
name (the words of given_name and surname in any order), or soundex(FIELD) for what sounds alike. person is a set for records
of names, a birth date and an address with errors in them. On a terminal a bar shows the progress. Exits with 1 if any record was refused; the
reasons are listed without values. The API's key, where it wants one, is taken from DATABUS_API_KEY.

Examples:

    printf 'record_id,email,born\nr1,anna@mail.example,1980-01-31\n' > customers.csv; databus import --csv customers.csv --account acme --map birth_date=born

    databus import --csv customers.csv --account acme --map birth_date=born --format json

    printf 'id,given_name,surname,born,postcode\n1,Jane,Smith,1980-01-31,2000\n2,Jayne,Smyth,1980-01-31,2000\n' > errors.csv; databus import --csv errors.csv --account acme --record-id id --map birth_date=born --composite person

    printf '{"id":7,"contact":{"mail":"bert@mail.example"}}\n' > customers.ndjson; databus import --ndjson customers.ndjson --account acme --record-id id --map email=contact.mail
`
}

// Validate is called by the parser of the command line.
func (c importCmd) Validate() error {
	switch {
	case !schemas.ValidAccount(c.Account):
		return fmt.Errorf("--account %q is no account id: 1 to 64 letters, digits, dots, underscores and dashes", c.Account)
	case c.Batch < 1 || c.Batch > 10_000:
		return errors.New("--batch is not between 1 and 10000")
	case c.Parallel < 1 || c.Parallel > 64:
		return errors.New("--parallel is not between 1 and 64")
	}
	return nil
}

// Run loads the file and prints the summary.
func (c importCmd) Run(ctx context.Context, g *Globals) error {
	fields, err := load.ParseFields(c.Map)
	if err != nil {
		return err
	}
	composites := strings.Join(c.Composite, " ")
	if err := graph.CheckComposites(composites); err != nil {
		return fmt.Errorf("--composite: they %w", err)
	}
	format, file := c.input()
	if c.RunName == "" {
		if c.RunName, err = digest(format, file, composites); err != nil {
			return err
		}
	}
	source, err := load.Open(format, file, load.Mapping{Account: c.Account, RecordID: c.RecordID, Fields: fields, Composites: composites, Run: c.RunName})
	if err != nil {
		return err
	}
	defer func() { _ = source.Close() }() // it was only read
	total, err := load.Count(format, file)
	if err != nil {
		return err
	}
	if c.API == "" {
		dev, _, err := g.dev()
		if err != nil {
			return err
		}
		if c.API = dev.HTTP; c.API == "" {
			return errors.New("where is ingest's API? Name it with --api, or start `databus dev`")
		}
	}
	begin := time.Now()
	bar := newTeller(g.Err, g.Out, true).Step("loading customer records", total)
	sum, err := load.Run(ctx, source, load.Options{
		Client: &client.Client{URL: strings.TrimRight(c.API, "/"), APIKey: os.Getenv("DATABUS_API_KEY")},
		Batch:  c.Batch, Parallel: c.Parallel, Progress: bar.Add,
	})
	bar.Done()
	took := time.Since(begin).Seconds()
	ends := map[string]int64{}
	for p, end := range sum.Ends {
		ends[fmt.Sprint(p)] = end
	}
	if c.Format == "json" {
		printJSON(g.Out, map[string]any{"run": c.RunName, "records": total, "accepted": sum.Accepted, "refused": sum.Refused, "with_warnings": sum.Warnings,
			"problems": append([]string{}, sum.Problems...), "ends": ends, "seconds": took})
	} else {
		fmt.Fprintf(g.Out, "%d of %d records accepted, %d refused, %d with warnings, in %.1f s\n", sum.Accepted, total, sum.Refused, sum.Warnings, took)
		for _, p := range slices.Sorted(slices.Values(sum.Problems)) {
			fmt.Fprintf(g.Out, "  refused: %s\n", p)
		}
		for _, p := range slices.Sorted(maps.Keys(sum.Ends)) {
			fmt.Fprintf(g.Out, "  %s/%d: up to offset %d\n", schemas.DatabusRecords, p, sum.Ends[p]-1)
		}
	}
	switch {
	case err != nil:
		return fmt.Errorf("loading %s: %w; run the same command again to go on", file, err)
	case sum.Refused > 0:
		return fmt.Errorf("%d records of %s were refused", sum.Refused, file)
	}
	return nil
}

// digest names a load by its content, so that the same file sent again is a repeat; with other composites it is none.
func digest(format, path, composites string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", path, err)
	}
	defer f.Close()
	h := sha256.New()
	h.Write([]byte(composites)) // never fails
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("reading %s: %w", path, err)
	}
	return format + "-" + hex.EncodeToString(h.Sum(nil)[:8]), nil
}
