package rebuilder

import (
	"context"
	"errors"
	"fmt"

	"databus/pkg/graph"
	"databus/pkg/history"
	"databus/pkg/identity"
	"databus/pkg/job"
	"databus/pkg/seal"
	"databus/schemas/event"
)

// load is a task of stage 0: one partition's rows.
func (r *Rebuilder) load(ctx context.Context, task *event.RebuildTask, result *event.RebuildResult) error {
	if _, err := r.own(ctx, task); err != nil {
		return err
	}
	if err := r.Keyring.Ready(ctx); err != nil {
		return fmt.Errorf("reading the data keys: %w", err)
	}
	g, err := r.Graphs.Graph(ctx, task.GraphVersion)
	if err != nil {
		return err
	}
	if err := r.Manifest.CaughtUp(ctx); err != nil {
		return err
	}
	chain, err := r.Manifest.Chain(task.Partition, 0)
	if err == nil {
		chain, err = chain.Until(task.Next)
	}
	if err != nil {
		return err
	}
	store, err := r.Stores.Keyspace(task.Keyspace)
	if err != nil {
		return err
	}
	l := &loader{
		cfg: r.cfg, rows: r.Rows, graph: g, store: store, locked: r.locked, written: func(n int) { r.written.Add(float64(n)) },
		// What has no value breaks the model, and is given as an empty record.
		read: func(ctx context.Context, fn func(*identity.Input) error) (history.Summary, error) {
			return history.Read(ctx, r.Bucket, chain, func(rec history.Record[event.DatabusRecord]) error {
				if rec.Value == nil {
					rec.Value = &event.DatabusRecord{}
				}
				return fn(&identity.Input{Record: rec.Value, Epoch: task.Epoch, Offset: rec.Offset, AppendTime: rec.Time})
			})
		},
	}
	if err := l.load(ctx); err != nil {
		return fmt.Errorf("rebuilding partition %d: %w", task.Partition, err)
	}
	*result = l.count(*result)
	r.log.Info("partition rebuilt", "job", task.JobID, "partition", task.Partition, "records", result.Records,
		"winners", result.Winners, "repeats", result.Repeats, "dead", result.Dead, "shredded", result.Shredded)
	return nil
}

// own checks that the version is still this job's and not given up.
func (r *Rebuilder) own(ctx context.Context, task *event.RebuildTask) (event.DatabaseVersion, error) {
	if err := r.Databases.CaughtUp(ctx); err != nil {
		return event.DatabaseVersion{}, err
	}
	v, ok := r.Databases.Get(task.DatabaseVersion)
	switch {
	case !ok || v.JobID != task.JobID || v.Keyspace != task.Keyspace:
		return v, job.Permanent(fmt.Errorf("database version %s is not this job's any more; another job took its id", task.DatabaseVersion))
	case v.State == event.DatabaseStateFailed || v.State == event.DatabaseStateRetired:
		return v, job.Permanent(fmt.Errorf("database version %s is in state %s", task.DatabaseVersion, v.State))
	}
	return v, nil
}

// locked says that a version's key never existed, which needs no opening.
func (r *Rebuilder) locked(ctx context.Context, rec *event.DatabusRecord) (bool, error) {
	if rec.KeyID == "" {
		return false, nil
	}
	_, err := r.Keyring.Revoked(ctx, rec.KeyID)
	if errors.Is(err, seal.ErrUnknownKey) {
		return true, nil
	}
	return false, err
}

// loader rebuilds one partition.
type loader struct {
	cfg   Config
	rows  identity.Rower
	graph *graph.Graph
	store identity.Store
	// read gives the partition's versions up to the frontier to fn, in order. It is called at least twice.
	read    func(ctx context.Context, fn func(*identity.Input) error) (history.Summary, error)
	locked  func(context.Context, *event.DatabusRecord) (bool, error)
	written func(records int)

	chosen  map[recordKey]*candidate // of all rounds, the last one's choice
	invalid int64
	letters int64
	total   int64 // rows in all tables
	// shredded are the chosen versions of which the key is revoked.
	shredded int64

	batch []identity.Change
	bytes int
}

func (l *loader) load(ctx context.Context) error {
	c := newChooser()
	for {
		sum, err := l.read(ctx, func(in *identity.Input) error {
			locked, err := l.locked(ctx, in.Record)
			c.add(in, locked)
			return err
		})
		if err != nil {
			return err
		}
		if l.chosen == nil {
			l.chosen, l.invalid, l.letters = c.records, c.invalid, sum.DeadLetters
		} else {
			for key, candidate := range c.records {
				l.chosen[key] = candidate
			}
		}
		broken, err := l.write(ctx, c)
		if err != nil || len(broken) == 0 {
			return err
		}
		c = c.again(broken) // one version more is dead in each
	}
}

// write is pass 2: it opens what the choice rests on and writes the rows of the chosen versions. It returns the records
// of which a version did not open; nothing is written of those.
func (l *loader) write(ctx context.Context, c *chooser) (map[recordKey]bool, error) {
	broken := map[recordKey]bool{}
	_, err := l.read(ctx, func(in *identity.Input) error {
		key := recordKey{in.Record.Account, in.Record.RecordKey}
		r := c.records[key]
		if r == nil || c.dead[in.Offset] || !r.opens(in.Offset) {
			return nil
		}
		row, err := l.rows.Row(ctx, l.graph, in)
		if err != nil {
			if !identity.IsDead(err) {
				return fmt.Errorf("resolving offset %d: %w", in.Offset, err)
			}
			c.dead[in.Offset], broken[key] = true, true
			return nil
		}
		if in.Offset != r.newest || broken[key] { // the newest comes last, so all others have opened
			return nil
		}
		if row.Shredded {
			l.shredded++
			row.Shredded = false
		}
		row.Recent = r.recent
		return l.put(ctx, row)
	})
	if err == nil {
		err = l.flush(ctx)
	}
	return broken, err
}

func (l *loader) put(ctx context.Context, row identity.Row) error {
	l.batch = append(l.batch, identity.Change{New: row})
	l.bytes += len(row.Sealed)
	for _, t := range identity.Tables() {
		if t.Holds(&row) {
			l.total++
		}
	}
	if len(l.batch) >= l.cfg.BatchRows || l.bytes >= l.cfg.BatchBytes {
		return l.flush(ctx)
	}
	return nil
}

func (l *loader) flush(ctx context.Context) error {
	if len(l.batch) == 0 {
		return nil
	}
	if err := l.store.Apply(ctx, l.batch); err != nil {
		return fmt.Errorf("writing to keyspace %s: %w", l.store.Keyspace(), err)
	}
	l.written(len(l.batch))
	clear(l.batch)
	l.batch, l.bytes = l.batch[:0], 0
	return nil
}

// count fills a result with the sums.
func (l *loader) count(result event.RebuildResult) event.RebuildResult {
	result.Dead = l.invalid + l.letters
	result.Records = result.Dead
	result.Rows, result.Shredded = l.total, l.shredded
	for _, r := range l.chosen {
		result.Records += r.records
		result.Repeats += r.repeats
		result.Dead += r.dead
		if r.newest >= 0 {
			result.Winners++
			result.Superseded += r.records - r.repeats - r.dead - 1
		}
	}
	return result
}
