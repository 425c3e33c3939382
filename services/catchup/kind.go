package catchup

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

// serdes of the job's topics, and of the records.
type serdes struct {
	request *codec.Serde[event.CatchupRequest]
	task    *codec.Serde[event.CatchupTask]
	result  *codec.Serde[event.CatchupResult]
	event   *codec.Serde[event.CatchupEvent]
	row     *codec.Serde[event.JobState]
	record  *codec.Serde[event.DatabusRecord]
}

func newSerdes(c *codec.Codec) serdes {
	return serdes{
		request: codec.For[event.CatchupRequest](c, schemas.CatchupRequests),
		task:    codec.For[event.CatchupTask](c, schemas.CatchupTasks),
		result:  codec.For[event.CatchupResult](c, schemas.CatchupResults),
		event:   codec.For[event.CatchupEvent](c, schemas.CatchupEvents),
		row:     codec.For[event.JobState](c, schemas.CatchupTable),
		record:  codec.For[event.DatabusRecord](c, schemas.DatabusRecords),
	}
}

// lastTask is the partition of the task of stage 1.
const lastTask = -1

// plan is what planning fixes, as JSON in State.Plan. Ranges are by partition.
type plan struct {
	Database string    `json:"database"`
	Ranges   []offsets `json:"ranges"`
}

// offsets is a range of offsets, To not included.
type offsets struct {
	From int64 `json:"from"`
	To   int64 `json:"to"`
}

func readPlan(s *job.State) (*plan, error) {
	p := new(plan)
	if err := json.Unmarshal(s.Plan, p); err != nil {
		return nil, fmt.Errorf("reading the job's plan: %w", err)
	}
	return p, nil
}

func (c *Catchup) kind() job.Kind {
	return job.Kind{
		Name: "catchup", Topics: Topics(),
		Request: c.request, Plan: c.plan, Tasks: c.tasks, Result: c.result, Event: c.event, Run: c.run, Failure: c.failure,
		// The last task is alone in its stage; before planning there are no tasks.
		Stage: func(s job.State, number int) int {
			if number == len(s.Tasks)-1 {
				return 1
			}
			return 0
		},
	}
}

func (c *Catchup) request(id string, value []byte) (job.Request, error) {
	q, err := job.Decode(c.serdes.request, value)
	if err != nil {
		return job.Request{}, err
	}
	if q.JobID != id {
		return job.Request{}, errors.New("the request's job_id is not the record's key")
	}
	return job.Request{Cancel: q.Cancel}, nil
}

// tasks are one for each partition, those with nothing to apply included: the applier group gets its position there too.
func (c *Catchup) tasks(s job.State) ([][]byte, error) {
	p, err := readPlan(&s)
	if err != nil {
		return nil, err
	}
	var values [][]byte
	for n := range len(p.Ranges) + 1 {
		task := &event.CatchupTask{JobID: s.JobID, Number: int32(n), DatabaseVersion: p.Database, Partition: lastTask}
		if n < len(p.Ranges) {
			task.Partition, task.From, task.To = int32(n), p.Ranges[n].From, p.Ranges[n].To
		}
		value, err := job.Encode(c.serdes.task, task)
		if err != nil {
			return nil, err
		}
		values = append(values, value)
	}
	return values, nil
}

func (c *Catchup) result(value []byte) (job.Result, error) {
	v, err := job.Decode(c.serdes.result, value)
	if err != nil {
		return job.Result{}, err
	}
	result := job.Result{Number: int(v.Number), Error: v.Error}
	if !v.Ok && v.Error == "" {
		result.Error = "failed without a reason"
	}
	return result, nil
}

func (c *Catchup) event(s job.State, what job.Event, _ int) ([]byte, error) {
	e := &event.CatchupEvent{JobID: s.JobID, Kind: event.CatchupEventKind(what), Error: s.Error, At: s.UpdatedAt, Partitions: []event.CatchupProgress{}}
	if what == job.Accepted {
		e.At, e.Error = s.CreatedAt, ""
		return job.Encode(c.serdes.event, e)
	}
	if len(s.Plan) > 0 {
		p, err := readPlan(&s)
		if err != nil {
			return nil, err
		}
		e.DatabaseVersion = p.Database
	}
	for i := range s.Tasks {
		if !s.Tasks[i].Done {
			continue
		}
		v, err := job.Decode(c.serdes.result, s.Tasks[i].Result)
		if err != nil {
			return nil, fmt.Errorf("reading the result of task %d: %w", i, err)
		}
		if v.Partition == lastTask {
			continue
		}
		e.Partitions = append(e.Partitions, event.CatchupProgress{
			Partition: v.Partition, From: v.From, To: v.To, Applied: v.Applied, Superseded: v.Superseded, Repeats: v.Repeats, Dead: v.Dead, Shredded: v.Shredded,
		})
	}
	return job.Encode(c.serdes.event, e)
}

func (c *Catchup) run(ctx context.Context, t job.Task) ([]byte, error) {
	task, err := job.Decode(c.serdes.task, t.Value)
	if err != nil {
		return nil, err
	}
	result := &event.CatchupResult{JobID: t.JobID, Number: int32(t.Number), Ok: true, Partition: task.Partition, From: task.From, To: task.To}
	if task.Partition == lastTask {
		err = c.finish(ctx, task)
	} else {
		err = c.apply(ctx, task, result)
	}
	if err != nil {
		return nil, err
	}
	return job.Encode(c.serdes.result, result)
}

func (c *Catchup) failure(t job.Task, reason error) ([]byte, error) {
	// The partition is in the reason; a task that cannot be read has none.
	return job.Encode(c.serdes.result, &event.CatchupResult{JobID: t.JobID, Number: int32(t.Number), Error: reason.Error()})
}
