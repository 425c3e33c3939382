package rebuilder

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"databus/pkg/identity"
	"databus/pkg/job"
	"databus/schemas"
	"databus/schemas/event"
)

var versionPattern = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// plan fixes what a rebuild will do, announces its version and creates its keyspace, in this order: whatever fails then,
// the version leads the clean-up to the keyspace.
func (r *Rebuilder) plan(ctx context.Context, s job.State) ([]byte, error) {
	q, err := job.Decode(r.serdes.request, s.Request)
	if err != nil {
		return nil, err
	}
	for _, caughtUp := range []func(context.Context) error{r.Databases.CaughtUp, r.Graphs.CaughtUp, r.Manifest.CaughtUp} {
		if err := caughtUp(ctx); err != nil {
			return nil, job.Temporary(err)
		}
	}
	p := &plan{Database: versionID(q)}
	if !versionPattern.MatchString(p.Database) {
		return nil, errors.New("database_version is not 1 to 64 characters of [A-Za-z0-9._-]")
	}
	if v, ok := r.Databases.Get(p.Database); ok && v.JobID != s.JobID {
		return nil, fmt.Errorf("database version %s exists already, in state %s; choose another one, or leave it out", v.Version, v.State)
	}
	serving, isServing := r.Databases.Serving()
	p.Epoch = serving.Epoch
	switch {
	case q.GraphVersion != nil:
		p.Graph = *q.GraphVersion
	case isServing:
		p.Graph = serving.GraphVersion
	default:
		return nil, errors.New("no database version is serving: name the graph_version to resolve with")
	}
	if _, ok := r.Graphs.Version(p.Graph); !ok {
		return nil, fmt.Errorf("%w: %s", identity.ErrUnknownGraph, p.Graph)
	}
	if p.Frontier, err = r.frontier(ctx); err != nil {
		return nil, err
	}
	p.Keyspace = keyspaceName(p.Database, s.JobID)
	if err := r.announce(ctx, p.version(s.JobID, event.DatabaseStateBuilding)); err != nil {
		return nil, job.Temporary(err)
	}
	store, err := r.Stores.Keyspace(p.Keyspace)
	if err != nil {
		return nil, err
	}
	if err := store.Create(ctx); err != nil {
		return nil, job.Temporary(fmt.Errorf("creating keyspace %s: %w", p.Keyspace, err))
	}
	return json.Marshal(p)
}

// versionID is the request's, or follows from the job's id.
func versionID(q *event.RebuildRequest) string {
	if q.DatabaseVersion != nil {
		return *q.DatabaseVersion
	}
	sum := sha256.Sum256([]byte("databus/rebuild/" + q.JobID))
	return "r" + hex.EncodeToString(sum[:5])
}

// keyspaceName is different for each job, so that two jobs that ask for one version at the same moment can never mix
// their rows.
func keyspaceName(version, jobID string) string {
	sum := sha256.Sum256([]byte(version + "\x00" + jobID))
	clean := strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' {
			return c
		}
		return '_'
	}, strings.ToLower(version))
	return "databus_" + clean[:min(len(clean), 24)] + "_" + hex.EncodeToString(sum[:4])
}

// frontier is where the archive of each partition ends. The archive must begin with the first record that ever was: what
// is in no file would be missing in the database without a trace.
func (r *Rebuilder) frontier(ctx context.Context) ([]int64, error) {
	starts, err := r.Admin.ListStartOffsets(ctx, schemas.DatabusRecords)
	if err == nil {
		err = starts.Error()
	}
	if err != nil {
		return nil, job.Temporary(fmt.Errorf("asking where %s begins: %w", schemas.DatabusRecords, err))
	}
	frontier := make([]int64, len(starts[schemas.DatabusRecords]))
	for i := range frontier {
		partition := int32(i)
		start, ok := starts.Lookup(schemas.DatabusRecords, partition)
		if !ok {
			return nil, job.Temporary(fmt.Errorf("asking where %s begins: nothing is said of partition %d", schemas.DatabusRecords, partition))
		}
		chain, err := r.Manifest.Chain(partition, 0)
		if err != nil {
			return nil, err
		}
		if len(chain.Files) == 0 && start.Offset > 0 {
			return nil, fmt.Errorf("archive of %s, partition %d: it has no file, and the topic has lost offsets 0 to %d; let the archiver write what is left and restore the rest",
				schemas.DatabusRecords, partition, start.Offset-1)
		}
		frontier[i] = chain.Next
	}
	return frontier, nil
}

func (r *Rebuilder) announce(ctx context.Context, v event.DatabaseVersion) error {
	if err := identity.Announce(ctx, r.Producer, r.codec, v); err != nil {
		return err
	}
	r.log.Info("database version", "version", v.Version, "state", v.State, "keyspace", v.Keyspace, "graph", v.GraphVersion, "job", v.JobID)
	return nil
}
