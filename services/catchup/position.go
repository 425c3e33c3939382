package catchup

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"databus/schemas"
	"databus/schemas/event"
)

// position is what the applier group has committed of a partition. A task leaves its job, its number and its counts in the
// metadata, so that the same task, cut off and run again, goes on counting.
type position struct {
	offset   int64
	metadata string
}

func (c *Catchup) committed(ctx context.Context, group string) (map[int32]position, error) {
	fetched, err := c.Admin.FetchOffsetsForTopics(ctx, group, schemas.DatabusRecords)
	if err == nil {
		err = fetched.Error()
	}
	if errors.Is(err, kerr.GroupIDNotFound) {
		return nil, nil // nobody has committed anything yet
	}
	if err != nil {
		return nil, fmt.Errorf("asking for the positions of group %s: %w", group, err)
	}
	positions := map[int32]position{}
	fetched.Each(func(o kadm.OffsetResponse) {
		if o.At >= 0 {
			positions[o.Partition] = position{o.At, o.Metadata}
		}
	})
	return positions, nil
}

// commit sets the applier group's position. The broker refuses it while the group has members.
func (c *Catchup) commit(ctx context.Context, group string, partition int32, p position) error {
	offsets := kadm.Offsets{}
	offsets.Add(kadm.Offset{Topic: schemas.DatabusRecords, Partition: partition, At: p.offset, LeaderEpoch: -1, Metadata: p.metadata})
	committed, err := c.Admin.CommitOffsets(ctx, group, offsets)
	if err == nil {
		err = committed.Error()
	}
	if err != nil {
		return fmt.Errorf("committing partition %d for group %s, which must have no members: %w", partition, group, err)
	}
	return nil
}

// counts is a result's counts as metadata: catchup:<job>:<task>:<applied>:<superseded>:<repeats>:<dead>:<shredded>.
func counts(r *event.CatchupResult) string {
	return fmt.Sprintf("catchup:%s:%d:%d:%d:%d:%d:%d", r.JobID, r.Number, r.Applied, r.Superseded, r.Repeats, r.Dead, r.Shredded)
}

// resume adds the counts of an earlier run of the same task to r; what others have left is ignored.
func resume(metadata string, r *event.CatchupResult) {
	parts := strings.Split(metadata, ":")
	if len(parts) != 8 || parts[0] != "catchup" || parts[1] != r.JobID || parts[2] != strconv.Itoa(int(r.Number)) {
		return
	}
	var n [5]int64
	for i := range n {
		var err error
		if n[i], err = strconv.ParseInt(parts[3+i], 10, 64); err != nil {
			return
		}
	}
	r.Applied, r.Superseded, r.Repeats, r.Dead, r.Shredded = n[0], n[1], n[2], n[3], n[4]
}
