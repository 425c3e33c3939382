package rebuilder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"databus/pkg/job"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

// serdes of the job's topics.
type serdes struct {
	request *codec.Serde[event.RebuildRequest]
	task    *codec.Serde[event.RebuildTask]
	result  *codec.Serde[event.RebuildResult]
	event   *codec.Serde[event.RebuildEvent]
	row     *codec.Serde[event.JobState]
}

func newSerdes(c *codec.Codec) serdes {
	return serdes{
		request: codec.For[event.RebuildRequest](c, schemas.RebuildRequests),
		task:    codec.For[event.RebuildTask](c, schemas.RebuildTasks),
		result:  codec.For[event.RebuildResult](c, schemas.RebuildResults),
		event:   codec.For[event.RebuildEvent](c, schemas.RebuildEvents),
		row:     codec.For[event.JobState](c, schemas.RebuilderTable),
	}
}

// lastTask is the partition of the task of stage 1.
const lastTask = -1

// plan is what planning fixes, as JSON in State.Plan.
type plan struct {
	Database string `json:"database"`
	Keyspace string `json:"keyspace"`
	Graph    string `json:"graph"`
	Epoch    int32  `json:"epoch"`
	// Frontier is the end of the archive of each partition.
	Frontier []int64 `json:"frontier"`
}

func readPlan(s *job.State) (*plan, error) {
	p := new(plan)
	if err := json.Unmarshal(s.Plan, p); err != nil {
		return nil, fmt.Errorf("reading the job's plan: %w", err)
	}
	return p, nil
}

// version of the database in a state.
func (p *plan) version(jobID string, state event.DatabaseState) event.DatabaseVersion {
	v := event.DatabaseVersion{
		Version: p.Database, Keyspace: p.Keyspace, GraphVersion: p.Graph, ApplierGroup: "ingest.applier." + p.Database,
		State: state, Epoch: p.Epoch, JobID: jobID, Frontier: []event.FrontierPosition{},
	}
	for n, offset := range p.Frontier {
		v.Frontier = append(v.Frontier, event.FrontierPosition{Partition: int32(n), Offset: offset})
	}
	return v
}

func (r *Rebuilder) kind() job.Kind {
	return job.Kind{
		Name: "rebuild", Topics: Topics(),
		Request: r.request, Plan: r.plan, Tasks: r.tasks, Result: r.result, Event: r.event, Run: r.run, Failure: r.failure,
		// The last task is alone in its stage; before planning there are no tasks.
		Stage: func(s job.State, number int) int {
			if number == len(s.Tasks)-1 {
				return 1
			}
			return 0
		},
	}
}

func (r *Rebuilder) request(id string, value []byte) (job.Request, error) {
	q, err := job.Decode(r.serdes.request, value)
	if err != nil {
		return job.Request{}, err
	}
	if q.JobID != id {
		return job.Request{}, errors.New("the request's job_id is not the record's key")
	}
	return job.Request{Cancel: q.Cancel}, nil
}

// tasks are one for each partition that has an archive, and the last one.
func (r *Rebuilder) tasks(s job.State) ([][]byte, error) {
	p, err := readPlan(&s)
	if err != nil {
		return nil, err
	}
	var values [][]byte
	add := func(partition int, next int64) error {
		value, err := job.Encode(r.serdes.task, &event.RebuildTask{
			JobID: s.JobID, Number: int32(len(values)), DatabaseVersion: p.Database, Keyspace: p.Keyspace, GraphVersion: p.Graph,
			Partition: int32(partition), Next: next, Epoch: p.Epoch,
		})
		values = append(values, value)
		return err
	}
	for partition, next := range p.Frontier {
		if next > 0 {
			if err := add(partition, next); err != nil {
				return nil, err
			}
		}
	}
	return values, add(lastTask, 0)
}

func (r *Rebuilder) result(value []byte) (job.Result, error) {
	v, err := job.Decode(r.serdes.result, value)
	if err != nil {
		return job.Result{}, err
	}
	result := job.Result{Number: int(v.Number), Error: v.Error}
	if !v.Ok && v.Error == "" {
		result.Error = "failed without a reason"
	}
	return result, nil
}

// totals adds up the results that are in.
func (r *Rebuilder) totals(s *job.State) (event.RebuildResult, error) {
	var sum event.RebuildResult
	for i := range s.Tasks {
		if !s.Tasks[i].Done {
			continue
		}
		v, err := job.Decode(r.serdes.result, s.Tasks[i].Result)
		if err != nil {
			return sum, fmt.Errorf("reading the result of task %d: %w", i, err)
		}
		sum.Records += v.Records
		sum.Winners += v.Winners
		sum.Superseded += v.Superseded
		sum.Repeats += v.Repeats
		sum.Dead += v.Dead
		sum.Shredded += v.Shredded
		sum.Rows += v.Rows
	}
	return sum, nil
}

func (r *Rebuilder) event(s job.State, what job.Event, _ int) ([]byte, error) {
	e := &event.RebuildEvent{JobID: s.JobID, Kind: event.RebuildEventKind(what), Error: s.Error, At: s.UpdatedAt, Frontier: []event.RebuildFrontier{}}
	if what == job.Accepted {
		e.At, e.Error = s.CreatedAt, ""
		return job.Encode(r.serdes.event, e)
	}
	if len(s.Plan) > 0 {
		p, err := readPlan(&s)
		if err != nil {
			return nil, err
		}
		e.DatabaseVersion, e.GraphVersion, e.Tasks = p.Database, p.Graph, int32(len(s.Tasks))
		for n, offset := range p.Frontier {
			e.Frontier = append(e.Frontier, event.RebuildFrontier{Partition: int32(n), Offset: offset})
		}
		sum, err := r.totals(&s)
		if err != nil {
			return nil, err
		}
		e.Records, e.Rows, e.Dead, e.Shredded = sum.Records, sum.Rows, sum.Dead, sum.Shredded
		for i := range s.Tasks {
			if s.Tasks[i].Done {
				e.Done++
			}
		}
	}
	return job.Encode(r.serdes.event, e)
}

func (r *Rebuilder) run(ctx context.Context, t job.Task) ([]byte, error) {
	task, err := job.Decode(r.serdes.task, t.Value)
	if err != nil {
		return nil, err
	}
	result := &event.RebuildResult{JobID: t.JobID, Number: int32(t.Number), Ok: true}
	if task.Partition == lastTask {
		err = r.finish(ctx, task)
	} else {
		err = r.load(ctx, task, result)
	}
	if err != nil {
		return nil, err
	}
	return job.Encode(r.serdes.result, result)
}

func (r *Rebuilder) failure(t job.Task, reason error) ([]byte, error) {
	return job.Encode(r.serdes.result, &event.RebuildResult{JobID: t.JobID, Number: int32(t.Number), Error: reason.Error()})
}
