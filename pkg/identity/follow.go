package identity

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/follow"
	"databus/pkg/graph"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

// latest follows a compacted topic and keeps the newest event of each key.
type latest[T any] struct {
	follower *follow.Follower
	cancel   context.CancelFunc

	mu      sync.RWMutex
	rows    map[string]placed[T]
	changed chan struct{} // closed and replaced at every change
}

type placed[T any] struct {
	value     T
	partition int32
	offset    int64
}

func followLatest[T any](ctx context.Context, kafka []kgo.Opt, c *codec.Codec, topic string, log *slog.Logger) (*latest[T], error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	serde := codec.For[T](c, topic)
	l := &latest[T]{rows: map[string]placed[T]{}, changed: make(chan struct{})}
	// A handler that waits for the registry ends with Close, not only with the caller's context.
	ctx, l.cancel = context.WithCancel(ctx)
	var err error
	l.follower, err = follow.Topic(ctx, kafka, topic, func(rec *kgo.Record) {
		var v T
		for wait := 100 * time.Millisecond; rec.Value != nil; wait = min(2*wait, 5*time.Second) {
			err := serde.Decode(ctx, rec.Value, &v)
			if err == nil {
				break
			}
			log.Error("event is not readable", "topic", rec.Topic, "partition", rec.Partition, "offset", rec.Offset, "retry", !codec.IsPoison(err), "error", err)
			if codec.IsPoison(err) {
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		if rec.Value == nil {
			delete(l.rows, string(rec.Key))
		} else {
			l.rows[string(rec.Key)] = placed[T]{v, rec.Partition, rec.Offset}
		}
		close(l.changed)
		l.changed = make(chan struct{})
	})
	if err != nil {
		l.cancel()
	}
	return l, err
}

func (l *latest[T]) get(key string) (T, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	p, ok := l.rows[key]
	return p.value, ok
}

// list is in order of the events.
func (l *latest[T]) list() []T {
	l.mu.RLock()
	defer l.mu.RUnlock()
	all := make([]placed[T], 0, len(l.rows))
	for _, p := range l.rows {
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b placed[T]) int {
		return cmp.Or(cmp.Compare(a.partition, b.partition), cmp.Compare(a.offset, b.offset))
	})
	values := make([]T, len(all))
	for i, p := range all {
		values[i] = p.value
	}
	return values
}

// Ready waits until everything is known that was there at the start.
func (l *latest[T]) Ready(ctx context.Context) error { return l.follower.Ready(ctx) }

// IsReady is Ready without waiting.
func (l *latest[T]) IsReady() bool { return l.follower.IsReady() }

// CaughtUp waits until everything is known that is there now.
func (l *latest[T]) CaughtUp(ctx context.Context) error { return l.follower.CaughtUp(ctx) }

// Changed returns a channel that is closed at the next event. Take it before reading the state that must not be missed.
func (l *latest[T]) Changed() <-chan struct{} {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.changed
}

// Close stops following.
func (l *latest[T]) Close() {
	l.cancel()
	l.follower.Close()
}

// Databases follows databus.databases: which database versions there are and which one serves.
type Databases struct{ *latest[event.DatabaseVersion] }

// FollowDatabases starts to follow; see Ready.
func FollowDatabases(ctx context.Context, kafka []kgo.Opt, c *codec.Codec, log *slog.Logger) (*Databases, error) {
	l, err := followLatest[event.DatabaseVersion](ctx, kafka, c, schemas.DatabusDatabases, log)
	if err != nil {
		return nil, err
	}
	return &Databases{l}, nil
}

// Get returns a version.
func (d *Databases) Get(version string) (event.DatabaseVersion, bool) { return d.get(version) }

// List returns all versions, the one that changed last at the end.
func (d *Databases) List() []event.DatabaseVersion { return d.list() }

// Serving returns the version that callers read; false while there is none. A cut-over is two events: of two versions that
// both claim to serve the later one does.
func (d *Databases) Serving() (event.DatabaseVersion, bool) {
	all := d.list()
	for i := len(all) - 1; i >= 0; i-- {
		if all[i].State == event.DatabaseStateServing {
			return all[i], true
		}
	}
	return event.DatabaseVersion{}, false
}

// Followed lists the versions that an applier keeps up to date: the serving one and those on standby.
func (d *Databases) Followed() []event.DatabaseVersion {
	return slices.DeleteFunc(d.list(), func(v event.DatabaseVersion) bool {
		return v.State != event.DatabaseStateServing && v.State != event.DatabaseStateStandby
	})
}

// ErrUnknownGraph: no event up to now names this graph version.
var ErrUnknownGraph = errors.New("graph version is unknown")

// maxGraphs is how many open graphs are kept: a live one, a new one and one to roll back to.
const maxGraphs = 3

// Graphs follows identity.graphs and opens graphs when they are asked for.
type Graphs struct {
	*latest[event.GraphVersion]
	cache *graph.Cache

	loading sync.Mutex // one load at a time: graphs can be large
	loaded  []loadedGraph
}

type loadedGraph struct {
	sum   string
	graph *graph.Graph
}

// FollowGraphs starts to follow; see Ready. Without a cache the graphs can be listed, but not opened.
func FollowGraphs(ctx context.Context, kafka []kgo.Opt, c *codec.Codec, cache *graph.Cache, log *slog.Logger) (*Graphs, error) {
	l, err := followLatest[event.GraphVersion](ctx, kafka, c, schemas.IdentityGraphs, log)
	if err != nil {
		return nil, err
	}
	return &Graphs{latest: l, cache: cache}, nil
}

// Version describes a graph version.
func (g *Graphs) Version(version string) (event.GraphVersion, bool) { return g.get(version) }

// List returns all versions, in the order in which they were announced.
func (g *Graphs) List() []event.GraphVersion { return g.list() }

// Graph returns a version's graph, open already or from the cache. A version that is unknown after catching up with
// identity.graphs is ErrUnknownGraph.
func (g *Graphs) Graph(ctx context.Context, version string) (*graph.Graph, error) {
	v, ok := g.get(version)
	if !ok {
		if err := g.CaughtUp(ctx); err != nil {
			return nil, fmt.Errorf("looking for graph %s: %w", version, err)
		}
		if v, ok = g.get(version); !ok {
			return nil, fmt.Errorf("looking for graph %s: %w; `databus graph build` makes one", version, ErrUnknownGraph)
		}
	}
	g.loading.Lock()
	defer g.loading.Unlock()
	sum := string(v.Sha256)
	for i, l := range g.loaded {
		if l.sum == sum {
			g.loaded = append(slices.Delete(g.loaded, i, i+1), l) // the last is the one used last
			return l.graph, nil
		}
	}
	loaded, err := g.cache.Graph(ctx, &v)
	if err != nil {
		return nil, err
	}
	if len(g.loaded) == maxGraphs {
		g.loaded = slices.Delete(g.loaded, 0, 1)
	}
	g.loaded = append(g.loaded, loadedGraph{sum, loaded})
	return loaded, nil
}
