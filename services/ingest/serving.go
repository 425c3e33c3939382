package ingest

import (
	"context"
	"errors"
	"time"

	"databus/pkg/graph"
	"databus/schemas/event"
)

// errNoDatabase: no database version serves yet.
var errNoDatabase = errors.New("no database version is serving; `databus init` makes the first one")

// serving returns the database version that answers look-ups, and the graph that it is pinned to.
func (s *Service) serving(ctx context.Context) (event.DatabaseVersion, *graph.Graph, error) {
	db, ok := s.databases.Serving()
	if !ok {
		return db, nil, errNoDatabase
	}
	g, err := s.graphs.Graph(ctx, db.GraphVersion)
	return db, g, err
}

// awaitServing is serving for the loops, which have nobody to tell: they wait for the first database.
func (s *Service) awaitServing(ctx context.Context) (event.DatabaseVersion, *graph.Graph, error) {
	for {
		db, g, err := s.serving(ctx)
		if !errors.Is(err, errNoDatabase) {
			return db, g, err
		}
		select {
		case <-ctx.Done():
			return db, nil, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}
