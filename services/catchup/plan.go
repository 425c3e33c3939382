package catchup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"

	"databus/pkg/identity"
	"databus/pkg/job"
	"databus/schemas"
	"databus/schemas/event"
)

// plan fixes the ranges: from where the version's applier group stands, or else its frontier, to the end now.
func (c *Catchup) plan(ctx context.Context, s job.State) ([]byte, error) {
	q, err := job.Decode(c.serdes.request, s.Request)
	if err != nil {
		return nil, err
	}
	v, err := c.version(ctx, q.DatabaseVersion)
	if err != nil {
		return nil, err
	}
	if err := c.nobodyApplies(ctx, v.ApplierGroup); err != nil {
		return nil, err
	}
	// The high watermark, not what is committed: a transaction that is open now may hold records written before the trigger.
	ends, err := c.Admin.ListEndOffsets(ctx, schemas.DatabusRecords)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return nil, job.Temporary(fmt.Errorf("asking where %s ends: %w", schemas.DatabusRecords, err))
	}
	p := &plan{Database: v.Version, Ranges: make([]offsets, len(ends[schemas.DatabusRecords]))}
	for _, f := range v.Frontier {
		if f.Partition < 0 || int(f.Partition) >= len(p.Ranges) {
			return nil, fmt.Errorf("database version %s has a frontier in partition %d, and %s has %d partitions", v.Version, f.Partition, schemas.DatabusRecords, len(p.Ranges))
		}
		p.Ranges[f.Partition].From = f.Offset
	}
	committed, err := c.committed(ctx, v.ApplierGroup)
	if err != nil {
		return nil, job.Temporary(err)
	}
	for n := range p.Ranges {
		r := &p.Ranges[n]
		if at, ok := committed[int32(n)]; ok {
			r.From = at.offset
		}
		end, ok := ends.Lookup(schemas.DatabusRecords, int32(n))
		if !ok {
			return nil, job.Temporary(fmt.Errorf("asking where %s ends: nothing is said of partition %d", schemas.DatabusRecords, n))
		}
		if r.To = end.Offset; r.From > r.To {
			return nil, fmt.Errorf("database version %s is at offset %d of partition %d, and %s ends at %d: is it another cluster, or was the topic made anew?",
				v.Version, r.From, n, schemas.DatabusRecords, r.To)
		}
	}
	return json.Marshal(p)
}

// version returns a database version that may be caught up with.
func (c *Catchup) version(ctx context.Context, id string) (event.DatabaseVersion, error) {
	if err := c.Databases.CaughtUp(ctx); err != nil {
		return event.DatabaseVersion{}, job.Temporary(err)
	}
	v, ok := c.Databases.Get(id)
	switch {
	case id == "":
		return v, job.Permanent(errors.New("the request names no database_version"))
	case !ok:
		return v, job.Permanent(fmt.Errorf("database version %s does not exist", id))
	case v.State != event.DatabaseStateLoaded && v.State != event.DatabaseStateStandby:
		return v, job.Permanent(fmt.Errorf("database version %s is in state %s; LOADED or STANDBY can be caught up", id, v.State))
	}
	return v, nil
}

// nobodyApplies checks that the applier group has no members: a database has one writer.
func (c *Catchup) nobodyApplies(ctx context.Context, group string) error {
	groups, err := c.Admin.DescribeGroups(ctx, group)
	if err != nil {
		return job.Temporary(fmt.Errorf("looking at group %s: %w", group, err))
	}
	g := groups[group]
	switch {
	case g.Err != nil && !errors.Is(g.Err, kerr.GroupIDNotFound):
		return job.Temporary(fmt.Errorf("looking at group %s: %w", group, g.Err))
	case len(g.Members) > 0:
		return fmt.Errorf("group %s has members (%d): appliers follow this database version already and leave nothing to catch up; stop them first to do it here", group, len(g.Members))
	}
	return nil
}

// finish is the task of stage 1: from now on ingest's appliers follow the version.
func (c *Catchup) finish(ctx context.Context, task *event.CatchupTask) error {
	v, err := c.version(ctx, task.DatabaseVersion)
	if err != nil {
		if v.State == event.DatabaseStateServing {
			return nil // an earlier run of this task came so far, and the version was switched to since
		}
		return err
	}
	if v.State == event.DatabaseStateStandby {
		return nil
	}
	v.State = event.DatabaseStateStandby
	if err := identity.Announce(ctx, c.Producer, c.codec, v); err != nil {
		return err
	}
	c.log.Info("database version", "version", v.Version, "state", v.State, "keyspace", v.Keyspace, "job", task.JobID)
	return nil
}
