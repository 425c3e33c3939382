package rebuilder

import (
	"context"
	"fmt"

	"databus/pkg/identity"
	"databus/pkg/job"
	"databus/schemas/event"
)

// finish is the task of stage 1: the keyspace holds as many rows as were written, and the version is LOADED.
func (r *Rebuilder) finish(ctx context.Context, task *event.RebuildTask) error {
	v, err := r.own(ctx, task)
	if err != nil {
		return err
	}
	if v.State != event.DatabaseStateBuilding {
		return nil // an earlier run of this task came so far, and others may be writing since
	}
	s, ok, err := r.View().Get(task.JobID)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("job %s is not in the table", task.JobID)
	}
	p, err := readPlan(&s)
	if err != nil {
		return job.Permanent(err)
	}
	sum, err := r.totals(&s)
	if err != nil {
		return err
	}
	store, err := r.Stores.Keyspace(task.Keyspace)
	if err != nil {
		return err
	}
	if err := verify(ctx, store, sum); err != nil {
		return err
	}
	return r.announce(ctx, p.version(task.JobID, event.DatabaseStateLoaded))
}

// verify counts the rows of the three tables.
func verify(ctx context.Context, store identity.Store, sum event.RebuildResult) error {
	var rows, records int64
	for _, t := range identity.Tables() {
		var n int64
		if err := store.Scan(ctx, t, func(*identity.Row) error { n++; return nil }); err != nil {
			return fmt.Errorf("verifying %s in keyspace %s: %w", t.Name, store.Keyspace(), err)
		}
		rows += n
		if t.Name == identity.ByKey.Name {
			records = n
		}
	}
	if records != sum.Winners || rows != sum.Rows {
		return job.Permanent(fmt.Errorf("verifying keyspace %s: it holds %d records in %d rows, and %d in %d were written; ask for another rebuild",
			store.Keyspace(), records, rows, sum.Winners, sum.Rows))
	}
	return nil
}

// cleanUp gives up the versions of failed and cancelled jobs: it drops the keyspace, then announces FAILED. It goes by
// what the topics say, so it catches up with whatever a crash has left, and instances that do it twice do no harm.
func (r *Rebuilder) cleanUp(ctx context.Context) {
	for _, v := range r.Databases.List() {
		if v.JobID == "" || v.State != event.DatabaseStateBuilding && v.State != event.DatabaseStateLoaded {
			continue
		}
		s, ok, err := r.View().Get(v.JobID)
		if err != nil || !ok || s.Phase != event.JobPhaseFailed && s.Phase != event.JobPhaseCancelled {
			continue
		}
		store, err := r.Stores.Keyspace(v.Keyspace)
		if err == nil {
			err = store.Drop(ctx)
		}
		if err == nil {
			v.State = event.DatabaseStateFailed
			err = r.announce(ctx, v)
		}
		if err != nil && ctx.Err() == nil {
			r.log.Warn("giving up a database version, trying again", "version", v.Version, "keyspace", v.Keyspace, "error", err)
		}
	}
}
