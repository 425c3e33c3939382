package identity

import (
	"context"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"databus/pkg/graph"
)

// Outcome is what became of a version.
type Outcome uint8

const (
	// Applied: the row is this version, or was until a later one of the same batch.
	Applied Outcome = iota
	// Superseded: the stored row is this version or a later one.
	Superseded
	// Repeat: the request id was accepted recently; the row stays as it is.
	Repeat
	// Dead: the record can never become a row; the row stays as it is.
	Dead
	// Shredded: the version counts like an applied one, and its row is a deleted one, because its key is revoked.
	Shredded
)

func (o Outcome) String() string {
	return [...]string{"applied", "superseded", "repeat", "dead", "shredded"}[o]
}

// Result is the outcome of one input.
type Result struct {
	Outcome Outcome
	// Row is the version's row when it was applied or shredded.
	Row Row
	// Err says why a record is dead.
	Err error
}

// Rower makes a version's row, and says which keys are revoked; *Resolver is one.
type Rower interface {
	Row(ctx context.Context, g *graph.Graph, in *Input) (Row, error)
	Revoked(ctx context.Context, keyID string) (bool, error)
}

// Applier folds versions into the tables of a database that is pinned to one graph version.
type Applier struct {
	Rows  Rower
	Graph *graph.Graph
	// Readers is how many rows are read at once; 0 means 32.
	Readers int
}

// fold is one record's state within a batch.
type fold struct {
	row     Row // zero where the store has none
	places  []Place
	changed bool
}

// Apply folds a batch into a store: records of one or more partitions, each partition's in order of offsets. The result
// at i is that of batch[i]. When it returns without error everything is durable, so offsets may be committed then. After an
// error nothing is known about the batch: apply it again, from the same offset or an earlier one, in the same or other
// batches.
func (a *Applier) Apply(ctx context.Context, store Store, batch []Input) ([]Result, error) {
	folds, order, err := a.read(ctx, store, batch)
	if err != nil {
		return nil, err
	}
	results := make([]Result, len(batch))
	for i := range batch {
		in := &batch[i]
		f := folds[recordOf(in)]
		if f == nil { // not valid: there is no key to read
			results[i] = Result{Outcome: Dead, Err: in.Validate()}
			continue
		}
		if results[i], err = a.fold(ctx, f, in); err != nil {
			return nil, fmt.Errorf("applying offset %d: %w", in.Offset, err)
		}
	}
	changes := make([]Change, 0, len(order))
	for _, id := range order {
		f := folds[id]
		if !f.changed {
			continue
		}
		here := f.row.Place()
		left := slices.DeleteFunc(f.places, func(p Place) bool { return p == here || p == Place{} })
		changes = append(changes, Change{New: f.row, Left: left})
	}
	if err := store.Apply(ctx, changes); err != nil {
		return nil, err
	}
	return results, a.recheck(ctx, store, changes)
}

// recheck shreds rows of which the key was revoked while they were written: a sweep may have been by already. Where this
// process ends before it, the batch is applied again, and read does the same.
func (a *Applier) recheck(ctx context.Context, store Store, changes []Change) error {
	revoked := a.revocations()
	var late []Change
	for i := range changes {
		row := &changes[i].New
		is, err := revoked(ctx, row)
		if err != nil {
			return err
		}
		if is {
			late = append(late, Change{New: row.Marker(), Left: []Place{row.Place()}})
		}
	}
	if len(late) == 0 {
		return nil
	}
	return store.Apply(ctx, late)
}

// revocations asks once for each key.
func (a *Applier) revocations() func(context.Context, *Row) (bool, error) {
	known := map[string]bool{}
	return func(ctx context.Context, row *Row) (bool, error) {
		if row.KeyID == "" {
			return false, nil
		}
		is, ok := known[row.KeyID]
		if !ok {
			var err error
			if is, err = a.Rows.Revoked(ctx, row.KeyID); err != nil {
				return false, fmt.Errorf("asking whether a key is revoked: %w", err)
			}
			known[row.KeyID] = is
		}
		return is, nil
	}
}

func recordOf(in *Input) [2]string { return [2]string{in.Record.Account, in.Record.RecordKey} }

// read gets the stored rows of the batch's records, each once. One of which the key is revoked is shredded with this batch.
func (a *Applier) read(ctx context.Context, store Store, batch []Input) (map[[2]string]*fold, [][2]string, error) {
	folds := map[[2]string]*fold{}
	var order [][2]string
	for i := range batch {
		id := recordOf(&batch[i])
		if batch[i].Validate() == nil && folds[id] == nil {
			folds[id] = &fold{}
			order = append(order, id)
		}
	}
	readers := a.Readers
	if readers <= 0 {
		readers = 32
	}
	outer := ctx
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(readers)
	for _, id := range order {
		f := folds[id]
		group.Go(func() error {
			row, ok, err := store.Get(ctx, id[0], id[1])
			if ok {
				f.row, f.places = row, []Place{row.Place()}
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, nil, fmt.Errorf("reading stored rows: %w", err)
	}
	revoked := a.revocations()
	for _, id := range order {
		f := folds[id]
		is, err := revoked(outer, &f.row)
		if err != nil {
			return nil, nil, err
		}
		if is {
			f.row, f.changed = f.row.Marker(), true
		}
	}
	return folds, order, nil
}

// fold is the rule: what is not above the stored version is superseded, a recent request id is a repeat, what cannot be
// opened is dead, everything else becomes the row.
func (a *Applier) fold(ctx context.Context, f *fold, in *Input) (Result, error) {
	if err := in.Validate(); err != nil {
		return Result{Outcome: Dead, Err: err}, nil
	}
	version, err := Version(in.Epoch, in.Offset)
	if err != nil {
		return Result{}, err
	}
	if version <= f.row.Version {
		return Result{Outcome: Superseded}, nil
	}
	recent, repeat := f.row.Recent.Accept(in.Record.RequestID, in.AppendTime)
	if repeat {
		return Result{Outcome: Repeat}, nil
	}
	row, err := a.Rows.Row(ctx, a.Graph, in)
	if err != nil {
		if IsDead(err) {
			return Result{Outcome: Dead, Err: err}, nil
		}
		return Result{}, err
	}
	row.Recent = recent
	outcome := Applied
	if row.Shredded {
		outcome, row.Shredded = Shredded, false
	}
	f.row, f.changed = row, true
	if !slices.Contains(f.places, row.Place()) {
		f.places = append(f.places, row.Place())
	}
	return Result{Outcome: outcome, Row: row}, nil
}
