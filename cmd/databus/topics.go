package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"databus/pkg/topics"
	"databus/schemas"
)

type topicsCmd struct {
	Apply topicsApplyCmd `cmd:"" help:"Create missing topics and adjust the configuration of the others."`
	List  topicsListCmd  `cmd:"" help:"List the catalogue."`
	Check topicsCheckCmd `cmd:"" help:"Compare the brokers' topics with the catalogue."`
}

// A topicSet is the topics that a command is about.
type topicSet struct {
	Topic []string `arg:"" optional:"" predictor:"topic" help:"Topics of the catalogue; all of them by default."`
}

// chosen returns the catalogue's rows, each topic with its dead-letter topic behind it.
func (s topicSet) chosen() ([]schemas.Topic, error) {
	if len(s.Topic) == 0 {
		return schemas.WithDeadLetters(), nil
	}
	var all []schemas.Topic
	seen := map[string]bool{}
	for _, name := range s.Topic {
		t, ok := schemas.Lookup(name)
		if !ok {
			return nil, unknownTopic(name)
		}
		names := []string{t.Name}
		if t.DeadLetters {
			names = append(names, t.DeadLetter())
		}
		for _, n := range names {
			if !seen[n] {
				seen[n] = true
				all = append(all, schemas.MustLookup(n))
			}
		}
	}
	return all, nil
}

type topicsApplyCmd struct {
	topicSet
	Replication int16  `default:"-1" placeholder:"N" help:"Replication factor of new topics (default: the brokers' own)."`
	Format      string `enum:"text,json" default:"text" help:"text or json, one object per line."`
}

func (topicsApplyCmd) Help() string {
	return `Creates the topics that are missing, with their dead-letter topics, and alters configuration that differs. It never
deletes a topic and never changes the number of partitions or the cleanup policy, which would lose or reorder data: such
differences are errors that name the topic, what it is and what it should be. It can be run again at any time.

Examples:

    databus topics apply

    databus topics apply usage.events usage.contracts
`
}

// Run prints a line for each change.
func (c topicsApplyCmd) Run(ctx context.Context, g *Globals) error {
	chosen, err := c.chosen()
	if err != nil {
		return err
	}
	cl, err := g.kafka(ctx)
	if err != nil {
		return err
	}
	defer cl.Close()
	changes, err := topics.Apply(ctx, kadm.NewClient(cl), chosen, topics.Options{ReplicationFactor: c.Replication})
	for _, ch := range changes {
		if c.Format == "json" {
			printJSON(g.Out, map[string]any{"topic": ch.Topic, "change": ch.What})
		} else {
			fmt.Fprintf(g.Out, "%s: %s\n", ch.Topic, ch.What)
		}
	}
	if err == nil && c.Format == "text" {
		fmt.Fprintf(g.Out, "%d topics are as the catalogue says, %d changes\n", len(chosen), len(changes))
	}
	return err
}

type topicsListCmd struct {
	topicSet
	Format string `enum:"text,json" default:"text" help:"text or json, one object per line."`
}

func (topicsListCmd) Help() string {
	return `Prints the catalogue's topics with key, partitions, cleanup, schema, producers and consumers. No broker is asked.

Examples:

    databus topics list

    databus topics list usage.events --format json
`
}

// Run prints a line for each topic.
func (c topicsListCmd) Run(g *Globals) error {
	chosen, err := c.chosen()
	if err != nil {
		return err
	}
	if c.Format == "json" {
		for _, t := range chosen {
			printJSON(g.Out, map[string]any{
				"topic": t.Name, "key": t.Key, "partition_by": t.PartitionBy, "partitions": t.Partitions, "schema": t.Schema,
				"cleanup": t.Cleanup, "retention_ms": t.Retention.Milliseconds(), "min_compaction_lag_ms": t.MinCompactionLag.Milliseconds(),
				"max_compaction_lag_ms": t.MaxCompactionLag.Milliseconds(),
				"append_time":           t.AppendTime, "producers": t.Producers, "consumers": t.Consumers, "pseudonymous": t.Pseudonymous, "personal": t.Personal, "doc": t.Doc,
			})
		}
		return nil
	}
	w := tabwriter.NewWriter(g.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TOPIC\tPARTITIONS\tCLEANUP\tKEY\tSCHEMA\tDOC")
	for _, t := range chosen {
		schema := t.Schema
		if schema == "" {
			schema = "-"
		}
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\n", t.Name, t.Partitions, cleanup(t), t.Key, schema, t.Doc)
	}
	return w.Flush()
}

// cleanup says how long records live.
func cleanup(t schemas.Topic) string {
	if t.Cleanup == schemas.Delete {
		return "delete " + period(t.Retention)
	}
	if t.MaxCompactionLag > 0 {
		return "compact, max lag " + period(t.MaxCompactionLag)
	}
	if t.MinCompactionLag > 0 {
		return "compact, min lag " + period(t.MinCompactionLag)
	}
	return "compact"
}

func period(d time.Duration) string {
	const day = 24 * time.Hour
	if d >= day && d%day == 0 {
		return fmt.Sprintf("%d d", d/day)
	}
	return d.String()
}

type topicsCheckCmd struct {
	topicSet
	Format string `enum:"text,json" default:"text" help:"text or json, one object per line."`
}

func (topicsCheckCmd) Help() string {
	return `Prints each difference between the brokers' topics and the catalogue, with what to do about it, and exits with 1 if
there is any. Nothing is changed.

Examples:

    databus topics check

    databus topics check usage.events --format json
`
}

// Run prints a line for each difference.
func (c topicsCheckCmd) Run(ctx context.Context, g *Globals) error {
	chosen, err := c.chosen()
	if err != nil {
		return err
	}
	cl, err := g.kafka(ctx)
	if err != nil {
		return err
	}
	defer cl.Close()
	differences, err := topics.Compare(ctx, kadm.NewClient(cl), chosen)
	if err != nil {
		return err
	}
	for _, m := range differences {
		if c.Format == "json" {
			printJSON(g.Out, map[string]any{"topic": m.Topic, "what": m.What, "is": m.Is, "want": m.Want, "next": m.Next})
		} else {
			fmt.Fprintln(g.Out, m)
		}
	}
	switch {
	case len(differences) == 1:
		return errors.New("1 difference from the catalogue; it is listed with the next step")
	case len(differences) > 0:
		return fmt.Errorf("%d differences from the catalogue; they are listed with the next steps", len(differences))
	case c.Format == "text":
		fmt.Fprintf(g.Out, "%d topics are as the catalogue says\n", len(chosen))
	}
	return nil
}

// printJSON prints one object on a line. A reader that went away is noticed by the operating system.
func printJSON(w io.Writer, v any) {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	_ = e.Encode(v)
}
