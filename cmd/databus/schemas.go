package main

import (
	"context"
	"errors"
	"fmt"

	"databus/schemas"
	"databus/schemas/codec"
)

type schemasCmd struct {
	Register schemasRegisterCmd `cmd:"" help:"Register the schemas of all topics."`
	Check    schemasCheckCmd    `cmd:"" help:"Check that the schemas can read what earlier ones wrote."`
}

type schemasRegisterCmd struct{}

func (schemasRegisterCmd) Help() string {
	return `Sets the compatibility of each topic's subject (TOPIC-value) to BACKWARD_TRANSITIVE and registers the topic's schema
there. What is registered already stays as it is, so it can be run again at any time; do so before new versions of the
services start, which refuse to produce with a schema that the registry does not know.

Example:

    databus schemas register
`
}

// Run prints subject and schema id of each topic.
func (schemasRegisterCmd) Run(ctx context.Context, g *Globals) error {
	registry, _, err := g.registry()
	if err != nil {
		return err
	}
	err = codec.RegisterCatalogue(ctx, registry, func(t schemas.Topic, id int) {
		fmt.Fprintf(g.Out, "%s: schema %s has id %d\n", t.Subject(), t.Schema, id)
	})
	if errors.Is(err, codec.ErrIncompatible) {
		fmt.Fprintln(g.Out, err)
		return fmt.Errorf("some schemas cannot read what earlier versions wrote, and are not registered; %s", advice)
	}
	return g.registryHint(err)
}

// advice is what somebody does about an incompatible schema.
const advice = "keep old fields and their types, give new fields a default, only add symbols to enums that have a default; else make a new topic"
