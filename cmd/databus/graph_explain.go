package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"time"

	"databus/pkg/graph"
	"databus/pkg/identity"
	"databus/pkg/seal"
	"databus/schemas"
	"databus/schemas/event"
)

type graphExplainCmd struct {
	secretsFlags
	ID      string `arg:"" help:"FCID, account/record key, account/RecordID, FIELD=VALUE or KIND:HASH."`
	Other   string `arg:"" optional:"" help:"Another one: only the way of evidence between both."`
	Version string `predictor:"graph" placeholder:"VERSION" help:"Graph version; default: the one announced last."`
	Region  string `default:"US" placeholder:"CC" help:"Country of phone numbers without a country code, as ingest's region."`
	Show    int    `default:"20" placeholder:"N" help:"Items of each list in the text; json has all of them."`
	Format  string `enum:"text,json" default:"text" help:"text or json, one object."`
}

func (graphExplainCmd) Help() string {
	return `Says why identifiers belong to one person: the person's identifiers, the evidence that joins them with its source, weight and
time, and the identifiers in it that join nobody because too many persons share them. With two ids, the shortest way of
evidence from one to the other. Nothing is printed that identifies a customer: identifiers are hashes, records are keys.

An id is an FCID (32 hex digits), a record (its key, or the customer's own id), a field as customers send it, or an identifier as
this command prints it. Own ids and fields are hashed with the file of the secrets. The graph is computed again from what is
left of its evidence; where that is not all of it any more, a line says so.

Examples, after "databus graph build g2":

    databus graph explain email=anna@mail.example

    databus graph explain acme/r1 acme/r2 --version g2
`
}

// Run explains.
func (c graphExplainCmd) Run(ctx context.Context, g *Globals) error {
	v, err := c.version(ctx, g)
	if err != nil {
		return err
	}
	at, err := g.reach(ctx)
	if err != nil {
		return err
	}
	evidence, since, err := graph.EvidenceOf(ctx, graph.Sink{Kafka: at.kafka, Codec: at.codec}, &v)
	if err != nil {
		return g.registryHint(err)
	}
	s := evidence.Solve()
	if sum := sha256.Sum256(s.Built().File); string(sum[:]) != string(v.Sha256) {
		fmt.Fprintf(g.Err, "databus: the evidence of graph %s was replaced or withdrawn in part since it was built (%d newer observations); this is what is left of it, so persons may differ\n", v.Version, since)
	}
	id, err := c.find(ctx, g, s, c.ID)
	if err != nil {
		return err
	}
	if c.Other == "" {
		x, err := s.Explain(id)
		if err != nil {
			return c.hint(err, v.Version)
		}
		c.print(g, &v, x)
		return nil
	}
	other, err := c.find(ctx, g, s, c.Other)
	if err != nil {
		return err
	}
	steps, err := s.Path(id, other)
	if err != nil {
		return c.hint(err, v.Version)
	}
	c.printPath(g, &v, id, other, steps)
	return nil
}

// version is the one asked for, or the one announced last.
func (c graphExplainCmd) version(ctx context.Context, g *Globals) (event.GraphVersion, error) {
	all, err := g.graphs(ctx, nil)
	if err != nil {
		return event.GraphVersion{}, err
	}
	defer all.Close()
	if c.Version != "" {
		return announcedGraph(all, c.Version)
	}
	list := all.List()
	if len(list) == 0 {
		return event.GraphVersion{}, fmt.Errorf("%s has no graph version; `databus graph build` makes one", schemas.IdentityGraphs)
	}
	return list[len(list)-1], nil
}

func (c graphExplainCmd) hint(err error, version string) error {
	if errors.Is(err, graph.ErrNobody) {
		return fmt.Errorf("%w that graph %s was built of; a record that came later, or that nothing but its own id identifies, is a person of its own", err, version)
	}
	return err
}

// find turns what was asked for into an identifier of the person.
func (c graphExplainCmd) find(ctx context.Context, g *Globals, s *graph.Solved, asked string) (graph.Identifier, error) {
	if fcid, err := graph.ParseFCID(asked); err == nil {
		return s.Person(fcid)
	}
	if field, value, ok := strings.Cut(asked, "="); ok {
		return c.field(ctx, g, field, value)
	}
	if id, err := graph.ParseIdentifier(asked); err == nil {
		return id, nil
	}
	account, record, ok := strings.Cut(asked, "/")
	if !ok {
		return graph.Identifier{}, fmt.Errorf("%q is no FCID, no account/record key, no FIELD=VALUE and no KIND:HASH", asked)
	}
	ids, err := s.Piece(asked)
	if err != nil {
		var keys *seal.Keys
		if keys, err = c.load(ctx, g); err == nil {
			ids, err = s.Piece(account + "/" + identity.RecordKey(keys.AccountKey(account), record))
		}
	}
	if err != nil {
		return graph.Identifier{}, err
	}
	for _, id := range ids {
		if _, err = s.Explain(id); err == nil {
			return id, nil
		}
	}
	return graph.Identifier{}, err // all of them are shared
}

// field hashes a field as ingest does. A value that identifies in several ways is known by the best of them.
func (c graphExplainCmd) field(ctx context.Context, g *Globals, field, value string) (graph.Identifier, error) {
	keys, err := c.load(ctx, g)
	if err != nil {
		return graph.Identifier{}, err
	}
	n, err := graph.NewNormaliser(keys.IdentifierPepper(), c.Region)
	if err != nil {
		return graph.Identifier{}, err
	}
	ids, problems := n.Identifiers(map[string]string{field: value})
	switch {
	case len(problems) > 0:
		return graph.Identifier{}, errors.New(problems[0].String())
	case len(ids) == 0:
		return graph.Identifier{}, fmt.Errorf("field %s identifies nobody by itself; name email, phone, hashed_email, maid, social or national_id", field)
	}
	return ids[0], nil
}

func instant(micros int64) string { return moment(time.UnixMicro(micros)) }

func texts(ids []graph.Identifier) []string {
	all := make([]string, len(ids))
	for i, id := range ids {
		all[i] = id.Text()
	}
	return all
}

func pieceText(e *graph.Evidence, ids []graph.Identifier) string {
	return fmt.Sprintf("%s  source %s, weight %g, first seen %s, observed %s: %s", e.ID, e.Source, e.Weight, instant(e.FirstSeen), instant(e.ObservedAt), strings.Join(texts(ids), " "))
}

func pieceLine(e *graph.Evidence) map[string]any {
	return map[string]any{"evidence_id": e.ID, "source": e.Source, "weight": e.Weight, "first_seen": time.UnixMicro(e.FirstSeen).UTC(), "observed_at": time.UnixMicro(e.ObservedAt).UTC()}
}

func (c graphExplainCmd) print(g *Globals, v *event.GraphVersion, x *graph.Explanation) {
	if c.Format == "json" {
		members, pieces, shared := []any{}, []any{}, []any{}
		for _, m := range x.Members {
			members = append(members, map[string]any{"identifier": m.Identifier.Text(), "first_seen": time.UnixMicro(m.FirstSeen).UTC(), "evidence": m.Pieces})
		}
		for _, p := range x.Evidence {
			line := pieceLine(&p.Evidence)
			line["joins"] = texts(p.Joins)
			pieces = append(pieces, line)
		}
		for _, n := range x.Shared {
			shared = append(shared, map[string]any{"identifier": n.Identifier.Text(), "strong": n.Strong, "weak": n.Weak})
		}
		printJSON(g.Out, map[string]any{"version": v.Version, "fcid": x.FCID.String(), "anchor": x.Anchor.Text(), "identifiers": members, "evidence": pieces,
			"shared": shared, "refused": append([]string{}, x.Refused...)})
		return
	}
	fmt.Fprintf(g.Out, "person %s under graph %s; anchor %s\n", x.FCID, v.Version, x.Anchor.Text())
	listItems(g, c.Show, "identifiers", int64(len(x.Members)), x.Members, func(m graph.Member) string {
		return fmt.Sprintf("%s  first seen %s, in %d pieces of evidence", m.Identifier.Text(), instant(m.FirstSeen), m.Pieces)
	})
	listItems(g, c.Show, "evidence", int64(len(x.Evidence)), x.Evidence, func(p graph.Piece) string { return pieceText(&p.Evidence, p.Joins) })
	listItems(g, c.Show, "neutralised, joins nobody", int64(len(x.Shared)), x.Shared, func(n graph.Neutral) string {
		if n.Strong > graph.MaxStrong {
			return fmt.Sprintf("%s  seen with more than %d national ids or names with birth date", n.Identifier.Text(), graph.MaxStrong)
		}
		return fmt.Sprintf("%s  seen with %d other identifiers and no national id or name with birth date, more than %d", n.Identifier.Text(), n.Weak, graph.MaxWeak)
	})
	listItems(g, c.Show, "joined in part, because other evidence keeps its identifiers apart", int64(len(x.Refused)), x.Refused, func(id string) string { return id })
}

func (c graphExplainCmd) printPath(g *Globals, v *event.GraphVersion, from, to graph.Identifier, steps []graph.Step) {
	if c.Format == "json" {
		path := []any{}
		for _, s := range steps {
			line := pieceLine(&s.Piece)
			line["from"], line["to"] = s.From.Text(), s.To.Text()
			path = append(path, line)
		}
		printJSON(g.Out, map[string]any{"version": v.Version, "from": from.Text(), "to": to.Text(), "path": path})
		return
	}
	fmt.Fprintf(g.Out, "%s and %s are one person under graph %s, by %d pieces of evidence\n", from.Text(), to.Text(), v.Version, len(steps))
	for _, s := range steps {
		fmt.Fprintf(g.Out, "  %s\n", pieceText(&s.Piece, []graph.Identifier{s.From, s.To}))
	}
}
