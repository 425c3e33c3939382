package job

import (
	"context"
	"errors"
	"log/slog"
	"sort"
	"sync"
	"time"

	"github.com/lovoo/goka"
	"github.com/lovoo/goka/storage"
)

// ErrNotReady is returned by a View that does not run or has not read the table up to its end yet.
var ErrNotReady = errors.New("the view of the jobs is not up to date yet")

// View follows a kind's table and answers from memory. It is behind the coordinator by the time that a record takes through
// Kafka. Safe for concurrent use.
type View struct {
	topics Topics
	opts   Options
	log    *slog.Logger

	mu   sync.RWMutex // goka's view must not be read while it closes
	view *goka.View
}

// NewView makes a view of the jobs in t.Table; of o it needs Brokers and Codec.
func NewView(t Topics, o Options) (*View, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	return &View{topics: t, opts: o, log: o.Log.With("table", t.Table)}, nil
}

// Run follows the table until ctx ends, reconnecting as often as needed.
func (v *View) Run(ctx context.Context) {
	for ctx.Err() == nil {
		if err := v.follow(ctx); err != nil && ctx.Err() == nil {
			v.log.Warn("following the jobs table, trying again", "error", err)
		}
		sleep(ctx, time.Second)
	}
}

func (v *View) follow(ctx context.Context) error {
	o := v.opts
	g, err := goka.NewView(o.Brokers, goka.Table(v.topics.Table), o.Codec,
		goka.WithViewLogger(gokaLogger{v.log}),
		goka.WithViewHasher(newMurmur2),
		goka.WithViewStorageBuilder(storage.MemoryBuilder()),
		goka.WithViewTopicManagerBuilder(topicManager(o, "databus-job-view")),
		goka.WithViewConsumerSaramaBuilder(saramaConsumer(o)),
		goka.WithViewAutoReconnect(),
		goka.WithViewBackoffBuilder(func() (goka.Backoff, error) {
			return goka.NewSimpleBackoff(500*time.Millisecond, 10*time.Second), nil
		}),
	)
	if err != nil {
		return err
	}
	v.set(g)
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { v.set(nil); cancel() }) // readers first
	defer stop()
	err = g.Run(inner)
	v.set(nil)
	return err
}

func (v *View) set(g *goka.View) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.view = g
}

// Ready reports whether the view has read the table up to its end.
func (v *View) Ready() bool {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.view != nil && v.view.CurrentState() == goka.ViewStateRunning
}

// Get returns a job's row, and false if there is none.
func (v *View) Get(jobID string) (State, bool, error) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if v.view == nil || v.view.CurrentState() != goka.ViewStateRunning {
		return State{}, false, ErrNotReady
	}
	value, err := v.view.Get(jobID)
	if err != nil {
		return State{}, false, err
	}
	s, err := row(value)
	if err != nil || s == nil {
		return State{}, false, err
	}
	return *s, true, nil
}

// List returns all jobs, the oldest request first.
func (v *View) List() ([]State, error) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if v.view == nil || v.view.CurrentState() != goka.ViewStateRunning {
		return nil, ErrNotReady
	}
	it, err := v.view.Iterator()
	if err != nil {
		return nil, err
	}
	defer it.Release()
	var jobs []State
	for it.Next() {
		value, err := it.Value()
		if err != nil {
			return nil, err
		}
		s, err := row(value)
		if err != nil {
			return nil, err
		}
		if s != nil {
			jobs = append(jobs, *s)
		}
	}
	sort.Slice(jobs, func(i, j int) bool {
		if !jobs[i].CreatedAt.Equal(jobs[j].CreatedAt) {
			return jobs[i].CreatedAt.Before(jobs[j].CreatedAt)
		}
		return jobs[i].JobID < jobs[j].JobID
	})
	return jobs, it.Err()
}
