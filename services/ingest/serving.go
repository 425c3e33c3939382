package ingest

import (
	"context"
	"errors"

	"databus/pkg/graph"
	"databus/pkg/identity"
	"databus/schemas/event"
)

// errNoDatabase: no database version serves yet.
var errNoDatabase = errors.New("no database version is serving; `databus init` makes the first one")

// noGraph: the graph to which the serving database is pinned cannot be had.
type noGraph struct {
	version string
	err     error
}

func (e *noGraph) Error() string { return "loading graph " + e.version + ": " + e.err.Error() }
func (e *noGraph) Unwrap() error { return e.err }

// served is the database version that answers, kept until databus.databases changes: asking the followers for every
// record of a batch would sort and lock each time.
type served struct {
	changed <-chan struct{} // closed by the next event on databus.databases
	db      event.DatabaseVersion
	store   identity.Store
	graph   *graph.Graph // nil until a record was resolved: look-ups need none
}

// serving returns the database version that answers look-ups.
func (s *Service) serving() (*served, error) {
	if now := s.served.Load(); now != nil {
		select {
		case <-now.changed:
		default:
			return now, nil
		}
	}
	changed := s.databases.Changed() // before the state, so that no event falls between
	db, ok := s.databases.Serving()
	if !ok {
		return nil, errNoDatabase
	}
	store, err := s.stores.Keyspace(db.Keyspace)
	if err != nil {
		return nil, err
	}
	now := &served{changed: changed, db: db, store: store}
	s.served.Store(now)
	return now, nil
}

// resolving is serving with the graph to which the version is pinned.
func (s *Service) resolving(ctx context.Context) (*served, error) {
	now, err := s.serving()
	if err != nil || now.graph != nil {
		return now, err
	}
	g, err := s.graphs.Graph(ctx, now.db.GraphVersion)
	if err != nil {
		return nil, &noGraph{now.db.GraphVersion, err}
	}
	with := *now
	with.graph = g
	s.served.Store(&with) // where a newer one was stored meanwhile, this one's channel is closed and the next call sees it
	return &with, nil
}

// ready says whether the service knows the database that serves.
func (s *Service) ready() (bool, string) {
	switch {
	case !s.databases.IsReady():
		return false, "reading databus.databases"
	case !s.graphs.IsReady():
		return false, "reading identity.graphs"
	}
	if _, err := s.serving(); err != nil {
		return false, err.Error()
	}
	return true, ""
}
