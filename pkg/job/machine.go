package job

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"databus/schemas/event"
)

// The state machine of a job, without any I/O:
//
//	            request            plan recorded             last result, gather agrees
//	(no row) ------------> REQUESTED ----------> PLANNED -------------------------------> COMPLETED
//	                           |                    |  result: task done, k of n
//	                           |                    |  last result of a stage: the next stage's tasks
//	                           |                    |  failed result: attempts+1, task again
//	                           +----- cancel -------+-----------------------------------> CANCELLED
//	                           +--- plan failed ----+--- attempts used up, gather -------> FAILED
//
// The coordinator is at-least-once: the row may have been recorded and the records that go with it lost, or the other
// way round, and the input then comes again. So every step answers a repeated input with at least what it answered
// the first time, derived from the row: "say it again". Consumers of events and workers tell repeats by their numbers.

// saying is an event to emit.
type saying struct {
	what   Event
	number int
}

// decision is what a step wants done, in this order of meaning: record next, say the events, emit the tasks.
type decision struct {
	next  *State   // the row to record; nil leaves it as it is
	say   []saying // events to emit
	tasks []int    // numbers of the tasks to emit
	plan  bool     // the job waits for its plan
	note  string   // why the input had no effect, for the log
}

func closed(s *State) bool {
	switch s.Phase {
	case event.JobPhaseCompleted, event.JobPhaseFailed, event.JobPhaseCancelled:
		return true
	}
	return false
}

// ending is the event that says how a closed job ended.
func ending(s *State) saying {
	switch s.Phase {
	case event.JobPhaseCompleted:
		return saying{Completed, len(s.Tasks)}
	case event.JobPhaseCancelled:
		return saying{Cancelled, len(s.Tasks)}
	}
	return saying{Failed, len(s.Tasks)}
}

func openTasks(s *State) []int {
	var open []int
	for i := range s.Tasks {
		if !s.Tasks[i].Done {
			open = append(open, i)
		}
	}
	return open
}

// stages is Kind.Stage or nil, which puts all tasks into one stage.
type stages func(job State, number int) int

func (f stages) of(s *State, number int) int {
	if f == nil {
		return 0
	}
	return f(*s, number)
}

// due returns the open tasks whose turn it is: those of the lowest stage that has any.
func (f stages) due(s *State) []int {
	open := openTasks(s)
	if f == nil || len(open) == 0 {
		return open
	}
	lowest := f.of(s, open[0])
	for _, n := range open[1:] {
		lowest = min(lowest, f.of(s, n))
	}
	var due []int
	for _, n := range open {
		if f.of(s, n) == lowest {
			due = append(due, n)
		}
	}
	return due
}

// after returns what the end of a task of the given number opens: the tasks that are due, if they are of a later stage.
func (f stages) after(s *State, number int) []int {
	if f == nil {
		return nil
	}
	due := f.due(s)
	if len(due) == 0 || f.of(s, due[0]) <= f.of(s, number) {
		return nil
	}
	return due
}

// onRequest handles a request that starts a job, or repeats one.
func onRequest(kind, id string, s *State, value []byte, stage stages, at time.Time) decision {
	if s == nil {
		return decision{
			next: &State{
				JobID: id, Kind: kind, Phase: event.JobPhaseRequested, Request: value,
				Plan: []byte{}, Tasks: []event.TaskState{}, CreatedAt: at, UpdatedAt: at,
			},
			say:  []saying{{Accepted, 0}},
			plan: true,
		}
	}
	d := decision{say: []saying{{Accepted, 0}}, note: "repeated request"}
	if s.Phase == event.JobPhaseRequested {
		d.plan = true
		return d
	}
	// All that a request can have led to, for results may have overtaken its repeat: they are another topic.
	if len(s.Plan) > 0 || s.Phase == event.JobPhasePlanned || s.Phase == event.JobPhaseCompleted {
		d.say = append(d.say, saying{Planned, len(s.Tasks)})
	}
	if closed(s) {
		d.say = append(d.say, ending(s))
	} else {
		d.tasks = stage.due(s)
	}
	return d
}

// onCancel handles a request that cancels a job.
func onCancel(s *State, at time.Time) decision {
	switch {
	case s == nil:
		return decision{note: "cancel of an unknown job"}
	case closed(s):
		return decision{say: []saying{ending(s)}, note: "cancel of a job that has ended"}
	}
	return end(s, event.JobPhaseCancelled, "", at)
}

// onPlan handles the plan of a job in phase REQUESTED; gather is Kind.Gather or nil.
func onPlan(s *State, plan []byte, tasks int, stage stages, gather func(State) error, at time.Time) decision {
	next := *s
	next.Phase, next.Plan, next.UpdatedAt = event.JobPhasePlanned, plan, at
	next.Tasks = make([]event.TaskState, tasks)
	for i := range next.Tasks {
		next.Tasks[i] = event.TaskState{Number: int32(i), Result: []byte{}}
	}
	d := decision{next: &next, say: []saying{{Planned, tasks}}, tasks: stage.due(&next)}
	if tasks == 0 {
		finish(&d, gather, at)
	}
	return d
}

// onPlanFailed handles a plan that could not be made.
func onPlanFailed(s *State, err error, at time.Time) decision {
	return end(s, event.JobPhaseFailed, "planning: "+err.Error(), at)
}

// outcome is a result together with what its record's headers say.
type outcome struct {
	Result
	plan    string // id of the plan that the task belongs to
	attempt int    // how often the task had failed before
	final   bool   // a failure that is not to be tried again
	value   []byte
}

// onResult handles the result of a task.
func onResult(s *State, o outcome, maxAttempts int, stage stages, gather func(State) error, at time.Time) decision {
	switch {
	case s == nil:
		return decision{note: "result for an unknown job"}
	case closed(s) && len(s.Plan) == 0: // see tooLarge
		return decision{say: []saying{ending(s)}, note: "result after the end"}
	case s.Phase == event.JobPhaseRequested || o.plan != planID(s.Plan):
		return decision{note: "result of another plan"}
	case o.Number < 0 || o.Number >= len(s.Tasks):
		return decision{note: "result for a task that is not in the plan"}
	}
	task := s.Tasks[o.Number]
	switch {
	case task.Done: // recorded already: each task once
		d := decision{say: []saying{{TaskDone, o.Number}}, note: "repeated result"}
		if closed(s) {
			d.say = append(d.say, ending(s))
		} else {
			d.tasks = stage.after(s, o.Number)
		}
		return d
	case closed(s):
		d := decision{note: "result after the end"}
		if o.attempt+1 == int(task.Attempts) { // the failure that ended the job
			d.say = []saying{ending(s)}
		}
		return d
	case o.Error != "" && o.attempt+1 == int(task.Attempts): // counted already: the task again
		return decision{tasks: []int{o.Number}, note: "repeated failure"}
	case o.Error != "" && o.attempt != int(task.Attempts):
		return decision{note: "failure of an earlier attempt"}
	}

	next := *s
	next.UpdatedAt = at
	next.Tasks = append([]event.TaskState(nil), s.Tasks...)
	t := &next.Tasks[o.Number]
	if o.Error != "" {
		t.Attempts++
		if o.final || int(t.Attempts) >= maxAttempts {
			return end(&next, event.JobPhaseFailed, fmt.Sprintf("task %d, attempt %d: %s", o.Number, t.Attempts, o.Error), at)
		}
		return decision{next: &next, tasks: []int{o.Number}}
	}
	t.Done, t.Result = true, o.value
	d := decision{next: &next, say: []saying{{TaskDone, o.Number}}, tasks: stage.after(&next, o.Number)}
	if len(openTasks(&next)) == 0 {
		finish(&d, gather, at)
	}
	return d
}

// finish ends the job of d.next, whose tasks are all done, as gather says.
func finish(d *decision, gather func(State) error, at time.Time) {
	phase, reason := event.JobPhaseCompleted, ""
	if gather != nil {
		if err := gather(*d.next); err != nil {
			phase, reason = event.JobPhaseFailed, "gathering: "+err.Error()
		}
	}
	e := end(d.next, phase, reason, at)
	d.next, d.say, d.tasks = e.next, append(d.say, e.say...), nil
}

func end(s *State, phase event.JobPhase, reason string, at time.Time) decision {
	next := *s
	next.Phase, next.Error, next.UpdatedAt = phase, shorten(reason), at
	return decision{next: &next, say: []saying{ending(&next)}}
}

// tooLarge ends a job whose row would not fit into a record: what makes it large is dropped, the request is kept.
func tooLarge(s *State, limit int, at time.Time) decision {
	next := *s
	next.Plan, next.Tasks = []byte{}, []event.TaskState{}
	return end(&next, event.JobPhaseFailed,
		fmt.Sprintf("the job's row would have more than the %d bytes that are allowed: make fewer tasks, or shorter results", limit), at)
}

// verdict is what a worker does with a task.
type verdict int

const (
	run  verdict = iota
	skip         // the task is done, out of date or its job has ended
	wait         // the row that the task belongs to is not in the table yet
)

// due decides on a task from the job's row as the table shows it. Rows only move forward, so whatever lies
// behind the row is skipped and whatever lies ahead of it is waited for. A task is thus run only under a plan that is
// recorded, even if a coordinator crashed between emitting tasks and recording their plan.
func due(s *State, plan string, number, attempt int, stage stages) verdict {
	switch {
	case s == nil || s.Phase == event.JobPhaseRequested:
		return wait
	case closed(s) || planID(s.Plan) != plan || number < 0 || number >= len(s.Tasks) || s.Tasks[number].Done:
		return skip
	case attempt < int(s.Tasks[number].Attempts):
		return skip
	case attempt > int(s.Tasks[number].Attempts):
		return wait
	}
	// A later stage's task can be ahead of the row that records the end of the stage before.
	if open := stage.due(s); stage.of(s, number) > stage.of(s, open[0]) {
		return wait
	}
	return run
}

// planID names a plan: 16 hexadecimal digits of its SHA-256.
func planID(plan []byte) string {
	sum := sha256.Sum256(plan)
	return hex.EncodeToString(sum[:8])
}

// shorten bounds reasons, which come from outside.
func shorten(reason string) string {
	const limit = 2000
	if len(reason) <= limit {
		return reason
	}
	cut := limit
	for cut > 0 && reason[cut]&0xC0 == 0x80 { // not inside a UTF-8 sequence
		cut--
	}
	return reason[:cut] + "..."
}
