package main

import (
	"cmp"
	"context"
	"io"
	"os"
	"strings"
	"time"

	"github.com/posener/complete"
)

// completionTime bounds what a shell waits for when versions are completed: they are asked for, where `databus dev` runs.
const completionTime = 2 * time.Second

// completing is the environment of a completion: flags are not parsed yet, so the variables and the default say where.
func completing() *Globals {
	g := &Globals{Registry: os.Getenv("DATABUS_REGISTRY"), Dir: cmp.Or(os.Getenv("DATABUS_DIR"), defaultDir), In: strings.NewReader(""), Out: io.Discard, Err: io.Discard}
	if brokers := os.Getenv("DATABUS_BROKERS"); brokers != "" {
		g.Brokers = strings.Split(brokers, ",")
	}
	return g
}

func predictGroup() complete.Predictor { return complete.PredictSet(knownGroups()...) }

func predictDatabase(complete.Args) []string {
	ctx, cancel := context.WithTimeout(context.Background(), completionTime)
	defer cancel()
	all, err := completing().databases(ctx)
	if err != nil {
		return nil // a completion says nothing
	}
	defer all.Close()
	var names []string
	for _, v := range all.List() {
		names = append(names, v.Version)
	}
	return names
}

func predictGraph(complete.Args) []string {
	ctx, cancel := context.WithTimeout(context.Background(), completionTime)
	defer cancel()
	all, err := completing().graphs(ctx, nil)
	if err != nil {
		return nil
	}
	defer all.Close()
	var names []string
	for _, v := range all.List() {
		names = append(names, v.Version)
	}
	return names
}
