package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/cmd/databus/internal/load"
	"databus/pkg/graph"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

type graphLoadCmd struct {
	secretsFlags
	fileFlags
	Source string    `required:"" placeholder:"NAME" help:"Name of the data source; evidence is known by it and its own id."`
	ID     string    `default:"evidence_id" placeholder:"COLUMN" help:"Column of the evidence's id within the source."`
	Map    []string  `placeholder:"FIELD=COLUMN" help:"Where a field comes from, such as birth_date=date_of_birth; other columns keep their names."`
	At     time.Time `placeholder:"TIME" help:"When it was observed, RFC 3339; of two loads of one id the newer one counts. Default: now."`
	Region string    `default:"US" placeholder:"CC" help:"Country of phone numbers without a country code, as ingest's region."`
	Format string    `enum:"text,json" default:"text" help:"Of the summary."`
}

func (graphLoadCmd) Help() string {
	return `Puts evidence of another source than customers' records onto identity.observations. A line is one piece: its fields are
those of a customer record (email, phone, maid, given_name, surname, birth_date ..., and email_2 to email_9 for further ones), which are
hashed here with the file of the secrets; or the column identifiers holds them as "databus graph explain" prints them, KIND:HASH, with
spaces between. Optional columns: relation is together (the default: one person's), apart (different persons': of fields that identify by
themselves, or of identifiers) or withdrawn (nothing any more); weight is the confidence from 0 to 1; first_seen a time or a date. Loading a file again replaces each piece by itself. Nothing
changes until a graph is built of it. Exits with 1 if any line was refused; the reasons are listed without values.

Example:

    printf 'evidence_id,email,email_2,weight\n1,anna@mail.example,a.smith@work.example,0.9\n' > links.csv; databus graph load --csv links.csv --source partner
`
}

// Validate is called by the parser of the command line.
func (c graphLoadCmd) Validate() error {
	if !schemas.ValidAccount(c.Source) { // the same form
		return fmt.Errorf("--source %q is no name of a source: 1 to 64 letters, digits, dots, underscores and dashes", c.Source)
	}
	return nil
}

// Run loads the file and prints the summary.
func (c graphLoadCmd) Run(ctx context.Context, g *Globals) error {
	fields, err := load.ParseFields(c.Map)
	if err != nil {
		return err
	}
	keys, err := c.load(ctx, g)
	if err != nil {
		return err
	}
	n, err := graph.NewNormaliser(keys.IdentifierPepper(), c.Region)
	if err != nil {
		return err
	}
	format, file := c.input()
	rows, err := load.Open(format, file, load.Mapping{Account: c.Source, RecordID: c.ID, Fields: fields, Run: "evidence"})
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }() // it was only read
	total, err := load.Count(format, file)
	if err != nil {
		return err
	}
	at, err := g.reach(ctx)
	if err != nil {
		return err
	}
	client, err := kgo.NewClient(append(at.kafka, kgo.RequiredAcks(kgo.AllISRAcks()))...)
	if err != nil {
		return fmt.Errorf("loading evidence: %w", err)
	}
	defer client.Close()
	if c.At.IsZero() {
		c.At = time.Now()
	}
	bar := newTeller(g.Err, g.Out, true).Step("loading evidence", total)
	sum, err := c.send(ctx, rows, n, client, codec.For[event.Observation](at.codec, schemas.IdentityObservations), bar.Add)
	bar.Done()
	if c.Format == "json" {
		printJSON(g.Out, map[string]any{"source": c.Source, "lines": total, "loaded": sum.loaded, "refused": sum.refused, "problems": append([]string{}, sum.problems...)})
	} else {
		fmt.Fprintf(g.Out, "%d of %d lines loaded, %d refused\n", sum.loaded, total, sum.refused)
		for _, p := range sum.problems {
			fmt.Fprintf(g.Out, "  refused: %s\n", p)
		}
	}
	switch {
	case err != nil:
		return fmt.Errorf("loading %s: %w; run the same command again", file, g.registryHint(err))
	case sum.refused > 0:
		return fmt.Errorf("%d lines of %s were refused", sum.refused, file)
	}
	return nil
}

// loadedEvidence says what became of a file. Problems are the first ten reasons, each once.
type loadedEvidence struct {
	loaded, refused int
	problems        []string
}

func (c graphLoadCmd) send(ctx context.Context, rows load.Source, n *graph.Normaliser, client *kgo.Client, to *codec.Serde[event.Observation], progress func(int)) (sum loadedEvidence, err error) {
	var mu sync.Mutex
	var failed error
	for {
		row, err := rows.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return sum, errors.Join(err, client.Flush(ctx))
		}
		progress(1)
		o, why := c.observation(n, row)
		if why != "" {
			sum.refused++
			if !slices.Contains(sum.problems, why) && len(sum.problems) < 10 {
				sum.problems = append(sum.problems, why)
			}
			continue
		}
		value, err := to.Encode(ctx, o)
		if err != nil {
			return sum, errors.Join(err, client.Flush(ctx))
		}
		sum.loaded++
		client.Produce(ctx, &kgo.Record{Topic: schemas.IdentityObservations, Key: []byte(o.EvidenceID), Value: value}, func(_ *kgo.Record, err error) {
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				failed = err
			}
		})
	}
	if err := client.Flush(ctx); err != nil {
		return sum, err
	}
	mu.Lock()
	defer mu.Unlock()
	return sum, failed
}

// observation is the piece of evidence of a line, or why there is none, without values.
func (c graphLoadCmd) observation(n *graph.Normaliser, row load.Record) (_ *event.Observation, why string) {
	take := func(column string) string {
		v := strings.TrimSpace(row.Fields[column])
		delete(row.Fields, column)
		return v
	}
	o := &event.Observation{EvidenceID: evidenceID(c.Source, row.RecordID), Source: c.Source, Relation: event.RelationTogether, Weight: 1, FirstSeen: c.At.UTC(), ObservedAt: c.At.UTC(),
		Identifiers: []event.EvidenceIdentifier{}}
	if row.RecordID == "" || len(row.RecordID) > 256 {
		return nil, c.ID + ": empty, or longer than 256 bytes"
	}
	if v := take("relation"); v != "" {
		o.Relation = event.Relation(strings.ToUpper(v))
		if !slices.Contains([]event.Relation{event.RelationTogether, event.RelationApart, event.RelationWithdrawn}, o.Relation) {
			return nil, "relation: none of together, apart and withdrawn"
		}
	}
	if v := take("weight"); v != "" {
		var err error
		if o.Weight, err = strconv.ParseFloat(v, 64); err != nil || !(o.Weight >= 0 && o.Weight <= 1) {
			return nil, "weight: no number from 0 to 1"
		}
	}
	if v := take("first_seen"); v != "" {
		t, err := time.Parse(time.RFC3339, v)
		if err != nil {
			t, err = time.Parse(time.DateOnly, v)
		}
		if err != nil || t.After(c.At) {
			return nil, "first_seen: no RFC 3339 time and no date, or later than the load"
		}
		o.FirstSeen = t.UTC()
	}
	given := strings.Fields(take("identifiers"))
	if o.Relation == event.RelationWithdrawn {
		return o, ""
	}
	ids, problems := identifiersOf(n, row.Fields, o.Relation)
	if len(problems) > 0 {
		return nil, problems[0].String()
	}
	for _, text := range given {
		id, err := graph.ParseIdentifier(text)
		if err != nil {
			return nil, "identifiers: not KIND:HASH, with spaces between"
		}
		ids = append(ids, id)
	}
	slices.SortFunc(ids, graph.Identifier.Compare)
	ids = slices.Compact(ids)
	if len(ids) < 2 || len(ids) > graph.MaxIdentifiers {
		return nil, fmt.Sprintf("fewer than two identifiers, or more than %d", graph.MaxIdentifiers)
	}
	o.Identifiers = graph.ToEvidence(ids)
	return o, ""
}

// identifiersOf hashes the fields of a line. What is apart are the fields: of a mail address, which is known as it is and as customers
// hash it, only the first counts, since the two are not apart.
func identifiersOf(n *graph.Normaliser, fields map[string]string, relation event.Relation) (ids []graph.Identifier, problems []graph.Problem) {
	if relation != event.RelationApart {
		return n.Identifiers(fields)
	}
	for _, field := range slices.Sorted(maps.Keys(fields)) {
		of, bad := n.Identifiers(map[string]string{field: fields[field], "country": fields["country"]})
		ids, problems = append(ids, of[:min(1, len(of))]...), append(problems, bad...)
	}
	return ids, problems
}

// evidenceID is no record's: those begin with an account, which has no colon.
func evidenceID(source, id string) string { return "source:" + source + "/" + id }
