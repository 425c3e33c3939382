package job

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"databus/schemas/codec"
	"databus/schemas/event"
)

// State is a job's row in the group table. Values handed to a Kind are for reading: a Kind must not change the slices.
type State = event.JobState

// Event names what happened to a job. The strings are the symbols of the event enums in the schemas
// (RebuildEventKind, CatchupEventKind), so that a kind converts instead of translating.
type Event string

// The events of a job, in the order in which they can occur. An event may be said more than once; its identity is
// (job id, event, task number), the last of which the header "number" carries.
const (
	Accepted  Event = "ACCEPTED"
	Planned   Event = "PLANNED"
	TaskDone  Event = "TASK_DONE"
	Completed Event = "COMPLETED"
	Failed    Event = "FAILED"
	Cancelled Event = "CANCELLED"
)

// Topics are the topics of a kind. Requests, Results and Table must have the same number of partitions, since the
// coordinator that owns a partition owns it in all three; Tasks may have more, for more parallel workers.
type Topics struct {
	Requests string // key: job id
	Tasks    string // key: job id "/" task number
	Results  string // key: job id
	Events   string // key: job id
	Table    string // key: job id; compacted; the consumer group is its name without the suffix "-table"
	// DeadLetters, when true, sends requests and results that cannot be read to "<topic>.dlq", with the reason in the
	// header "reason". When false they are logged and counted only.
	DeadLetters bool
}

// Group is the consumer group of the coordinators.
func (t Topics) Group() string { return strings.TrimSuffix(t.Table, "-table") }

// WorkerGroup is the consumer group of the workers.
func (t Topics) WorkerGroup() string { return t.Group() + "-workers" }

func deadLetters(topic string) string { return topic + ".dlq" }

// Request is what a coordinator needs to know of a request.
type Request struct {
	Cancel bool // the job of this id is to be cancelled
}

// Result is what a coordinator needs to know of a task's result.
type Result struct {
	Number int    // task number
	Error  string // why the task failed; empty when it was done
}

// Task is a task as a worker receives it.
type Task struct {
	JobID   string
	Number  int // from 0
	Attempt int // how often the task has failed before, from 0
	Value   []byte
}

// Kind is a kind of job: its topics and the functions that give its events their meaning. All []byte values are the
// record values of the topics, in the registry's wire format; this package never looks into them.
//
// All functions but Plan and Run must be pure: they are called again after a crash and must then give the same. Stage must
// be the same in coordinators and workers. An error wrapped by Temporary makes the caller wait and try again.
type Kind struct {
	Name   string // for example "rebuild"
	Topics Topics

	// Request reads a request. An error (not Temporary) rejects it.
	Request func(id string, value []byte) (Request, error)
	// Plan fixes what the job will do; the bytes are kept in State.Plan, in the kind's own format. It may read, and it may be
	// called again after a crash, in which case only the last plan counts: no task of an earlier one ever runs. It runs
	// in the partition's only goroutine, so it must end within Options.PlanTimeout. An error (not Temporary) fails the job.
	Plan func(ctx context.Context, job State) ([]byte, error)
	// Tasks derives the tasks' values from job.Plan; the index is the task's number. No tasks: the job completes at once.
	Tasks func(job State) ([][]byte, error)
	// Stage gives the stage of a task of job.Plan, from 0: a task is sent, and run, only when every task of the stages
	// below its own is done; its value may then depend on their results in job.Tasks. May be nil: one stage.
	Stage func(job State, number int) int
	// Result reads the result of a task.
	Result func(value []byte) (Result, error)
	// Gather is asked when every task is done; an error fails the job instead of completing it. May be nil.
	Gather func(job State) error
	// Event gives the value of an event record; number is the task's for TaskDone and the count of tasks otherwise.
	Event func(job State, what Event, number int) ([]byte, error)

	// Run does a task and returns the value of its result. It may run again, also while a cut-off worker still runs it:
	// its effects must be idempotent. It must return soon after ctx ends; the cause is then ErrClosed if the job was
	// cancelled or has failed. An error wrapped by Permanent is not tried again.
	Run func(ctx context.Context, task Task) ([]byte, error)
	// Failure gives the value of the result that says that a task failed.
	Failure func(task Task, reason error) ([]byte, error)
}

func (k Kind) validate() error {
	switch {
	case k.Name == "":
		return errors.New("job kind has no name")
	case k.Topics.Requests == "" || k.Topics.Tasks == "" || k.Topics.Results == "" || k.Topics.Events == "":
		return fmt.Errorf("job kind %s: requests, tasks, results and events topics are all needed", k.Name)
	case !strings.HasSuffix(k.Topics.Table, "-table") || k.Topics.Group() == "":
		return fmt.Errorf("job kind %s: table topic %q must be named <group>-table", k.Name, k.Topics.Table)
	}
	return nil
}

func (k Kind) validateCoordinator() error {
	if k.Request == nil || k.Plan == nil || k.Tasks == nil || k.Result == nil || k.Event == nil {
		return fmt.Errorf("job kind %s: a coordinator needs Request, Plan, Tasks, Result and Event", k.Name)
	}
	return k.validate()
}

func (k Kind) validateWorker() error {
	if k.Run == nil || k.Failure == nil {
		return fmt.Errorf("job kind %s: a worker needs Run and Failure", k.Name)
	}
	return k.validate()
}

// idPattern keeps "/" free as the separator of task keys.
var idPattern = regexp.MustCompile(`^[A-Za-z0-9._-]{1,128}$`)

// ErrClosed is the cause of a task's cancelled context when its job has ended.
var ErrClosed = errors.New("the job has ended")

type temporaryError struct{ error }

func (e temporaryError) Unwrap() error { return e.error }

// Temporary marks an error that waiting can cure. Errors of schemas/codec need no mark.
func Temporary(err error) error { return temporaryError{err} }

func isTemporary(err error) bool {
	var t temporaryError
	return errors.As(err, &t) || errors.Is(err, codec.ErrUnavailable) || errors.Is(err, codec.ErrUnknownSchema)
}

type permanentError struct{ error }

func (e permanentError) Unwrap() error { return e.error }

// Permanent marks the error of a task that trying again cannot cure: the job fails at once.
func Permanent(err error) error { return permanentError{err} }

func isPermanent(err error) bool { var p permanentError; return errors.As(err, &p) }
