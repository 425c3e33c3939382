package story

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"path"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/cmd/databus/internal/setup"
	"databus/pkg/graph"
	"databus/pkg/identity"
	"databus/schemas"
	"databus/schemas/event"
)

// archived waits until everything that was loaded is in the bucket.
func (s *story) archived(ctx context.Context) error {
	bar := s.Teller.Step("archiving", 0)
	defer bar.Done()
	from, err := markNow(ctx, s.stack, schemas.ArchiveFiles)
	if err != nil {
		return err
	}
	for p := range from {
		from[p] = 0
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	// The files of a partition arrive in order, so the last one's end is the archive's.
	next := map[int32]int64{}
	err = watch(ctx, s.stack, schemas.ArchiveFiles, from, func(_ *kgo.Record, f *event.ArchiveFile) (bool, error) {
		s.out.Took.Files++
		bar.Add(1)
		if f.Topic == schemas.DatabusRecords {
			next[f.Partition] = f.Next
			s.out.Archived += f.Rows
		}
		return s.ends.reached(next), nil
	})
	if err != nil {
		return err
	}
	s.Teller.Say("%d archive files written, %d Databus records in them", s.out.Took.Files, s.out.Archived)
	return nil
}

// A database is one that the story had built.
type database struct {
	event.DatabaseVersion
	store identity.Store
}

// build asks for a rebuild and then for a catch-up, both by events, and waits until the new database follows the
// Databus. requested is called once the rebuild has been asked for.
func (s *story) build(ctx context.Context, title string, graphVersion *string, requested func()) (*database, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	begin := time.Now()
	job := title + "-" + strconv.FormatInt(begin.UnixMilli(), 36)
	fromRebuild, err := markNow(ctx, s.stack, schemas.RebuildEvents)
	if err != nil {
		return nil, err
	}
	fromCatchup, err := markNow(ctx, s.stack, schemas.CatchupEvents)
	if err != nil {
		return nil, err
	}
	if err := produce(ctx, s.stack, schemas.RebuildRequests, job, &event.RebuildRequest{JobID: job, GraphVersion: graphVersion, RequestedBy: "demo"}); err != nil {
		return nil, err
	}
	requested()
	bar := s.Teller.Step("rebuilding", 0)
	var version string
	err = watch(ctx, s.stack, schemas.RebuildEvents, fromRebuild, func(rec *kgo.Record, e *event.RebuildEvent) (bool, error) {
		if e.JobID != job {
			return false, nil
		}
		bar.Add(1)
		version = e.DatabaseVersion
		return finished(string(e.Kind), e.Error)
	})
	bar.Done()
	if err != nil {
		return nil, fmt.Errorf("rebuild %s: %w", job, err)
	}
	s.Teller.Say("database %s rebuilt from the archive in %s", version, seconds(time.Since(begin)))

	if err := produce(ctx, s.stack, schemas.CatchupRequests, job, &event.CatchupRequest{JobID: job, DatabaseVersion: version, Until: event.CatchupUntilTrigger, RequestedBy: "demo"}); err != nil {
		return nil, err
	}
	var applied int64
	err = watch(ctx, s.stack, schemas.CatchupEvents, fromCatchup, func(rec *kgo.Record, e *event.CatchupEvent) (bool, error) {
		if e.JobID != job {
			return false, nil
		}
		if e.Kind == event.CatchupEventKindCompleted {
			for _, p := range e.Partitions {
				applied += p.Applied
			}
		}
		return finished(string(e.Kind), e.Error)
	})
	if err != nil {
		return nil, fmt.Errorf("catch-up %s: %w", job, err)
	}
	s.Teller.Say("database %s caught up: %d records that came after the archive", version, applied)
	return s.open(ctx, version)
}

// finished reads the kind of a job's event.
func finished(kind, reason string) (bool, error) {
	switch kind {
	case string(event.RebuildEventKindCompleted):
		return true, nil
	case string(event.RebuildEventKindFailed), string(event.RebuildEventKindCancelled):
		return true, fmt.Errorf("%s: %s", kind, reason)
	}
	return false, nil
}

// open finds a database version.
func (s *story) open(ctx context.Context, version string) (*database, error) {
	databases, err := identity.FollowDatabases(ctx, s.stack.KafkaOpts(), s.stack.Codec, nil)
	if err != nil {
		return nil, err
	}
	defer databases.Close()
	if err := databases.Ready(ctx); err != nil {
		return nil, err
	}
	v, ok := databases.Get(version)
	if !ok {
		return nil, fmt.Errorf("database %q is not on %s", version, schemas.DatabusDatabases)
	}
	store, err := s.stack.Stores.Keyspace(v.Keyspace)
	if err != nil {
		return nil, err
	}
	return &database{v, store}, nil
}

// rebuildSame builds a database under the live graph while records are written, and compares every row.
func (s *story) rebuildSame(ctx context.Context) error {
	begin := time.Now()
	writing := make(chan error, 1)
	started := make(chan struct{})
	go func() { writing <- s.write(ctx, started) }()
	select {
	case <-started:
	case err := <-writing:
		return errors.Join(err, errors.New("writing ended before the rebuild began"))
	}
	restarted := make(chan error, 1)
	db, err := s.build(ctx, "same-graph", nil, func() {
		if s.RestartServices {
			go func() { restarted <- s.restart() }()
		} else {
			restarted <- nil
		}
	})
	if err != nil {
		return err
	}
	if err := errors.Join(<-restarted, <-writing); err != nil {
		return fmt.Errorf("writing meanwhile: %w", err)
	}
	if err := s.bothApplied(ctx, db); err != nil {
		return err
	}
	compared, err := identity.Compare(ctx, s.live, db.store)
	if err != nil {
		return err
	}
	s.out.Compared = Compared{Rows: compared.Rows, Differences: compared.Differences}
	s.out.Rows, s.out.Took.Rebuild = compared.Rows, time.Since(begin)
	if !compared.Equal() {
		return fmt.Errorf("live and rebuilt differ in %d of %d rows: %v", compared.Differences, compared.Rows, compared.Diffs)
	}
	s.Teller.Say("live = rebuilt: %d rows, %d differences", compared.Rows, compared.Differences)
	_, s.out.Tables, err = people(ctx, s.live)
	return err
}

// bothApplied waits until the serving database and another one have everything that was written.
func (s *story) bothApplied(ctx context.Context, db *database) error {
	if err := s.groupReached(ctx, setup.ApplierGroup(setup.FirstDatabase)); err != nil {
		return err
	}
	return s.groupReached(ctx, db.ApplierGroup)
}

// rebuildNewer builds a graph from the evidence, and a database under it.
func (s *story) rebuildNewer(ctx context.Context) error {
	if err := s.groupReached(ctx, "ingest.evidence"); err != nil {
		return err
	}
	version := "g2"
	built, _, err := graph.BuildFromTopic(ctx, graph.Sink{Kafka: s.stack.KafkaOpts(), Codec: s.stack.Codec, Bucket: s.stack.Bucket}, version)
	if err != nil {
		return fmt.Errorf("building graph %s: %w", version, err)
	}
	stats := built.Stats()
	s.Teller.Say("graph %s built from the evidence: %d identifiers, %d of them shared by too many", version, stats.Identifiers, stats.Shared)
	db, err := s.build(ctx, "newer-graph", &version, func() {})
	if err != nil {
		return err
	}
	if err := s.bothApplied(ctx, db); err != nil {
		return err
	}
	if s.out.NewPersons, s.out.NewTables, err = together(ctx, db.store); err != nil {
		return err
	}
	pairs, err := fcidPairs(ctx, s.live, db.store)
	if err != nil {
		return err
	}
	changes := graph.DiffPairs(pairs)
	s.out.Merged, s.out.Split = int64(len(changes.Merged)), int64(len(changes.Split))
	s.Teller.Say("under graph %s there are %d persons instead of %d: %d merged into others, %d split off",
		version, s.out.NewPersons, changes.PersonsBefore, s.out.Merged, s.out.Split)
	return nil
}

// fcidPairs are the persons of each live record in two databases.
func fcidPairs(ctx context.Context, older, newer identity.Store) (iter.Seq[graph.Pair], error) {
	before := map[string]graph.FCID{}
	read := func(store identity.Store, each func(key string, id graph.FCID)) error {
		return store.Scan(ctx, identity.ByKey, func(r *identity.Row) error {
			if r.Deleted {
				return nil
			}
			id, err := graph.ParseFCID(r.FCID)
			if err == nil {
				each(path.Join(r.Account, r.RecordKey), id)
			}
			return err
		})
	}
	if err := read(older, func(key string, id graph.FCID) { before[key] = id }); err != nil {
		return nil, err
	}
	after := map[string]graph.FCID{}
	if err := read(newer, func(key string, id graph.FCID) { after[key] = id }); err != nil {
		return nil, err
	}
	if len(before) != len(after) {
		return nil, fmt.Errorf("the databases hold %d and %d records", len(before), len(after))
	}
	return func(yield func(graph.Pair) bool) {
		for key, id := range before {
			if !yield(graph.Pair{From: id, To: after[key]}) {
				return
			}
		}
	}, nil
}
