package job

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// expectSum checks everything that a finished job of n tasks must have left.
func (r *rig) expectSum(id string, n int) {
	r.t.Helper()
	s := r.phase(id, "COMPLETED")
	var plan sumPlan
	if err := json.Unmarshal(s.Plan, &plan); err != nil {
		r.t.Fatal(err)
	}
	if len(s.Tasks) != n || s.Error != "" {
		r.t.Fatalf("row of %s: %+v", id, s)
	}
	want := 0
	for i, task := range s.Tasks {
		var v sumResult
		if err := json.Unmarshal(task.Result, &v); err != nil {
			r.t.Fatal(err)
		}
		value := plan.Made*1000 + i + 1
		want += value
		if !task.Done || v.Number != i || v.Value != value {
			r.t.Errorf("task %d of %s: %+v, result %+v, want value %d of the recorded plan", i, id, task, v, value)
		}
	}
	names := []string{"ACCEPTED/0", fmt.Sprintf("PLANNED/%d", n), fmt.Sprintf("COMPLETED/%d", n)}
	for i := range n {
		names = append(names, fmt.Sprintf("TASK_DONE/%d", i))
	}
	var count map[string]int
	var last map[string]sumEvent
	r.eventually("all events of "+id, func() bool {
		count, last = r.events(id)
		for _, name := range names {
			if count[name] == 0 {
				return false
			}
		}
		return true
	})
	if len(count) != len(names) {
		r.t.Errorf("events of %s: %v, want only %v", id, count, names)
	}
	if sum := last[names[2]].Sum; sum != want {
		r.t.Errorf("job %s completed with %d, want %d", id, sum, want)
	}
}

func TestJobCompletes(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.coordinator()
	r.worker()
	r.request("one", sumRequest{N: 5})
	r.request("two", sumRequest{N: 0})
	r.expectSum("one", 5)
	r.expectSum("two", 0)
	for i := range 5 {
		if n := r.ran(fmt.Sprintf("one/%d", i)); n != 1 {
			t.Errorf("task %d ran %d times without any crash", i, n)
		}
	}
	jobs, err := r.view.List()
	if err != nil || len(jobs) != 2 || jobs[0].JobID != "one" || jobs[1].JobID != "two" {
		t.Errorf("list: %v %v", jobs, err)
	}
	if _, found, err := r.view.Get("three"); found || err != nil {
		t.Errorf("an unknown job: %v %v", found, err)
	}
}

// The tasks of a stage start when those before are done, and their values can hold the earlier results.
func TestStages(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	stage := func(_ State, n int) int { return n / 2 }
	r.kind.Stage = stage
	inner := r.kind.Tasks
	r.kind.Tasks = func(s State) ([][]byte, error) {
		tasks, err := inner(s)
		for i := range tasks {
			done := 0
			for n := range s.Tasks {
				if stage(s, n) < stage(s, i) && s.Tasks[n].Done {
					done++
				}
			}
			tasks[i], _ = json.Marshal(done)
		}
		return tasks, err
	}
	var mu sync.Mutex
	var order []int
	run := r.kind.Run
	r.kind.Run = func(ctx context.Context, task Task) ([]byte, error) {
		mu.Lock()
		order = append(order, stage(State{}, task.Number))
		first := len(order) == 1
		mu.Unlock()
		if first {
			return nil, errors.New("once") // a task that is tried again holds up the next stage too
		}
		return run(ctx, task)
	}
	r.coordinator()
	r.worker()
	r.worker()
	r.request("staged", sumRequest{N: 5})
	s := r.phase("staged", "COMPLETED")
	for i, task := range s.Tasks {
		var v sumResult
		if err := json.Unmarshal(task.Result, &v); err != nil {
			t.Fatal(err)
		}
		if want := i / 2 * 2; v.Value != want {
			t.Errorf("task %d was sent when %d tasks of earlier stages were done, want %d", i, v.Value, want)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if !slices.IsSorted(order) || len(order) < 6 {
		t.Errorf("stages ran in this order: %v", order)
	}
}

// The coordinator is killed at each place where its row, its tasks and its events can part: some topics take what it
// produces and others do not. A new one, which starts from Kafka alone, must bring the job to the same end.
func TestCoordinatorKilledInEveryState(t *testing.T) {
	const table, tasks, events = 1, 2, 4
	type moment struct {
		name    string
		refused int    // a sum of table, tasks, events
		before  string // what has happened before the broker begins to refuse
	}
	var moments []moment
	for _, before := range []string{"nothing", "planned", "all but one"} {
		moments = append(moments,
			moment{"nothing taken", table | tasks | events, before},
			moment{"only events lost", events, before},
			moment{"only the row lost", table, before},
			moment{"everything taken, inputs not marked", 0, before})
	}
	moments = append(moments, // only the first step emits tasks
		moment{"row taken, tasks and events lost", tasks | events, "nothing"},
		moment{"tasks taken, row and events lost", table | events, "nothing"},
		moment{"events taken, row and tasks lost", table | tasks, "nothing"},
		moment{"only tasks lost", tasks, "nothing"})
	for _, m := range moments {
		t.Run(m.before+" before, "+m.name, func(t *testing.T) {
			t.Parallel()
			r := newFaultyRig(t)
			r.session = time.Second
			var refused []string
			for i, topic := range []string{r.topics.Table, r.topics.Tasks, r.topics.Events} {
				if m.refused&(1<<i) != 0 {
					refused = append(refused, topic)
				}
			}
			hold := make(chan struct{})
			r.set(func() { r.hold = hold })
			first := r.coordinator()
			r.eventually("coordinator ready", first.ready)
			worker := r.worker()
			r.eventually("worker ready", worker.ready)

			switch m.before {
			case "nothing":
				r.refuse(refused...)
				r.request("j", sumRequest{N: 3})
			case "planned":
				r.request("j", sumRequest{N: 3})
				r.phase("j", "PLANNED")
				r.refuse(refused...)
				close(hold)
			case "all but one":
				r.set(func() {
					r.hold = nil
					r.runErr = func(task Task) error {
						if task.Number == 2 {
							<-hold
						}
						return nil
					}
				})
				r.request("j", sumRequest{N: 3})
				r.eventually("two of three done", func() bool {
					s, _, err := r.view.Get("j")
					return err == nil && len(s.Tasks) == 3 && s.Tasks[0].Done && s.Tasks[1].Done
				})
				r.refuse(refused...)
				close(hold)
			}
			if m.refused != 0 {
				r.eventually("the broker lost something", func() bool { r.mu.Lock(); defer r.mu.Unlock(); return r.lost > 0 })
			}
			time.Sleep(200 * time.Millisecond) // below the interval of marks: the inputs are not committed
			r.kill(first)
			r.refuse()
			if m.before == "nothing" {
				close(hold)
			}
			r.coordinator()
			r.expectSum("j", 3)
		})
	}
}

func TestWorkerKilledInTheMiddleOfATask(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.session = time.Second
	hold := make(chan struct{})
	r.set(func() { r.hold = hold })
	r.coordinator()
	first := r.worker()
	r.request("j", sumRequest{N: 6})
	r.eventually("a task runs", func() bool { return r.ran("j/0")+r.ran("j/1")+r.ran("j/2") > 0 })
	r.kill(first)
	r.set(func() { r.hold = nil })
	r.worker()
	r.expectSum("j", 6)
}

func TestWorkersComeAndGo(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.set(func() {
		r.runErr = func(Task) error { time.Sleep(20 * time.Millisecond); return nil }
	})
	r.coordinator()
	first := r.worker()
	r.request("j", sumRequest{N: 60})
	r.phase("j", "PLANNED")
	r.worker()
	time.Sleep(300 * time.Millisecond)
	r.stop(first)
	r.worker()
	r.expectSum("j", 60)
}

func TestRepeatedRequest(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.coordinator()
	r.worker()
	r.request("j", sumRequest{N: 3})
	r.expectSum("j", 3)
	first, _, _ := r.view.Get("j")

	r.request("j", sumRequest{N: 50}) // another request under the same id is a repeat too
	r.eventually("the end said again", func() bool { n, _ := r.events("j"); return n["COMPLETED/3"] >= 2 })
	r.expectSum("j", 3)
	again, _, _ := r.view.Get("j")
	if !again.UpdatedAt.Equal(first.UpdatedAt) || string(again.Request) != string(first.Request) {
		t.Errorf("a repeat changed the row from %+v to %+v", first, again)
	}
	if n := r.ran("j/0"); n != 1 {
		t.Errorf("task 0 ran %d times", n)
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	hold := make(chan struct{})
	defer close(hold)
	r.set(func() { r.hold = hold })
	r.coordinator()
	r.worker()
	r.request("j", sumRequest{N: 3})
	r.eventually("a task runs", func() bool { return r.ran("j/0")+r.ran("j/1")+r.ran("j/2") > 0 })
	r.request("j", sumRequest{Cancel: true})
	s := r.phase("j", "CANCELLED")
	r.request("j", sumRequest{Cancel: true})
	r.request("unknown", sumRequest{Cancel: true})
	r.eventually("the end said again", func() bool { n, _ := r.events("j"); return n["CANCELLED/3"] >= 2 })

	// The running task is let go and the queued ones do not start: a later job gets its turn.
	r.set(func() { r.hold = nil })
	r.request("later", sumRequest{N: 8})
	r.expectSum("later", 8)
	again, _, _ := r.view.Get("j")
	if again.Phase != s.Phase || !again.UpdatedAt.Equal(s.UpdatedAt) {
		t.Errorf("the cancelled job moved on: %+v", again)
	}
	if _, found, _ := r.view.Get("unknown"); found {
		t.Error("cancelling an unknown job made one")
	}
}

func TestFailingTask(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.set(func() {
		r.runErr = func(task Task) error {
			switch {
			case task.JobID == "flaky" && task.Attempt < 2:
				return errors.New("not this time")
			case task.JobID == "bad" && task.Number == 1:
				return fmt.Errorf("disk %d is full", task.Attempt)
			case task.JobID == "hopeless":
				return Permanent(errors.New("no such file"))
			case task.JobID == "panics":
				panic("index out of range")
			}
			return nil
		}
	})
	r.coordinator()
	r.worker()
	r.request("flaky", sumRequest{N: 2})
	r.request("bad", sumRequest{N: 3})
	r.request("hopeless", sumRequest{N: 1})
	r.request("panics", sumRequest{N: 1})
	r.expectSum("flaky", 2)
	for id, want := range map[string]struct {
		reason string
		runs   int
		task   string
	}{
		"bad":      {"task 1, attempt 3: disk 2 is full", 3, "bad/1"},
		"hopeless": {"task 0, attempt 1: no such file", 1, "hopeless/0"},
		"panics":   {"task 0, attempt 3: panic: index out of range", 3, "panics/0"},
	} {
		s := r.phase(id, "FAILED")
		if s.Error != want.reason || r.ran(want.task) != want.runs {
			t.Errorf("job %s failed with %q after %d runs, want %q after %d", id, s.Error, r.ran(want.task), want.reason, want.runs)
		}
		r.eventually("the failure of "+id+" is said", func() bool {
			n, last := r.events(id)
			name := fmt.Sprintf("FAILED/%d", len(s.Tasks))
			return n[name] >= 1 && last[name].Error == want.reason
		})
	}
}

func TestFailingPlan(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.set(func() {
		r.planErr = func(call int) error {
			if call < 3 {
				return Temporary(errors.New("the registry is away"))
			}
			if call == 4 {
				return errors.New("no archive files")
			}
			return nil
		}
	})
	r.coordinator(func(o *Options) { o.MaxTasks = 10 })
	r.worker()
	r.request("waits", sumRequest{N: 1})
	r.expectSum("waits", 1)
	r.request("fails", sumRequest{N: 1})
	if s := r.phase("fails", "FAILED"); s.Error != "planning: no archive files" {
		t.Errorf("failed with %q", s.Error)
	}
	r.request("large", sumRequest{N: 11})
	if s := r.phase("large", "FAILED"); s.Error != "planning: the plan has 11 tasks and 10 are allowed" {
		t.Errorf("failed with %q", s.Error)
	}
}

func TestRowsStayBelowTheirLimit(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.coordinator(func(o *Options) { o.MaxRow = 400 })
	r.worker()
	r.request("j", sumRequest{N: 30})
	s := r.phase("j", "FAILED")
	if !strings.Contains(s.Error, "more than the 400 bytes") || len(s.Tasks) != 0 {
		t.Errorf("row: %+v", s)
	}
	r.request("small", sumRequest{N: 1}) // the coordinator goes on
	r.expectSum("small", 1)
}

// A task that takes its worker along is counted over the workers' lives.
func TestPoisonedTask(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.session = time.Second
	stuck := make(chan struct{})
	defer close(stuck)
	r.set(func() {
		r.runErr = func(task Task) error {
			if task.JobID == "poison" {
				<-stuck // until the process is killed; the context does not help
			}
			return nil
		}
	})
	r.coordinator()
	r.request("poison", sumRequest{N: 1})
	limit := func(o *Options) { o.MaxStarts = 2 }
	for n := 1; n <= 2; n++ {
		w := r.worker(limit)
		r.eventually("the poisoned task runs", func() bool { return r.ran("poison/0") == n })
		r.kill(w)
	}
	r.worker(limit)
	s := r.phase("poison", "FAILED")
	if s.Error != "task 0, attempt 1: started 2 times, and each time its worker ended with it" || r.ran("poison/0") != 2 {
		t.Errorf("failed with %q after %d runs", s.Error, r.ran("poison/0"))
	}
}

func TestTwoCoordinatorsShareThePartitions(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.session = time.Second
	first, second := r.coordinator(), r.coordinator()
	r.worker()
	r.eventually("both ready", func() bool { return first.ready() && second.ready() })
	r.eventually("two members", func() bool {
		groups, err := r.admin.DescribeGroups(context.Background(), r.topics.Group())
		g := groups[r.topics.Group()]
		return err == nil && g.State == "Stable" && len(g.Members) == 2
	})
	for i := range 12 {
		r.request(fmt.Sprintf("early-%d", i), sumRequest{N: 3})
	}
	r.phase("early-0", "PLANNED")
	r.kill(first)
	for i := range 12 {
		r.request(fmt.Sprintf("late-%d", i), sumRequest{N: 3})
	}
	for i := range 12 {
		r.expectSum(fmt.Sprintf("early-%d", i), 3)
		r.expectSum(fmt.Sprintf("late-%d", i), 3)
	}
	r.stop(second)
}

func TestWhatCannotBeRead(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.coordinator(func(o *Options) { o.MaxValue = 1000 })
	r.worker(func(o *Options) { o.MaxValue = 1000 })
	r.produce(&kgo.Record{Topic: r.topics.Requests, Key: []byte("j"), Value: []byte("not json")})
	r.produce(&kgo.Record{Topic: r.topics.Requests, Key: []byte("a/b"), Value: []byte(`{"N":1}`)})
	r.produce(&kgo.Record{Topic: r.topics.Requests, Key: []byte("big"), Value: make([]byte, 1001)})
	r.produce(&kgo.Record{Topic: r.topics.Requests, Value: []byte(`{"N":1}`)})
	r.produce(&kgo.Record{Topic: r.topics.Requests, Key: []byte("j")})
	r.produce(&kgo.Record{Topic: r.topics.Results, Key: []byte("j"), Value: []byte("not json")})
	r.produce(&kgo.Record{Topic: r.topics.Tasks, Key: []byte("j"), Value: []byte("no number")})
	r.produce(&kgo.Record{Topic: r.topics.Results, Key: []byte("j"), Value: []byte(`{"Number":7}`),
		Headers: []kgo.RecordHeader{{Key: headerAttempt, Value: []byte("0")}}})
	r.request("j", sumRequest{N: 2}) // the id is still free
	r.expectSum("j", 2)

	var reasons []string
	r.eventually("five dead letters", func() bool {
		reasons = nil
		for _, topic := range []string{r.topics.Requests, r.topics.Results} {
			for _, rec := range r.records(deadLetters(topic)) {
				reasons = append(reasons, header(rec, headerReason))
			}
		}
		return len(reasons) == 5
	})
	text := strings.Join(reasons, "\n")
	for _, want := range []string{"invalid character", "no job id", "1001 bytes and 1000 are allowed"} {
		if !strings.Contains(text, want) {
			t.Errorf("no dead letter says %q:\n%s", want, text)
		}
	}
}

// Requests may come out of transactions, unlike rows.
func TestRequestFromATransaction(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.coordinator()
	r.worker()
	c, err := kgo.NewClient(kgo.SeedBrokers(r.brokers...), kgo.TransactionalID("requester"), kgo.UnknownTopicRetries(100))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, x := range []struct {
		id  string
		end kgo.TransactionEndTry
	}{{"aborted", kgo.TryAbort}, {"committed", kgo.TryCommit}} {
		if err := c.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		if err := c.ProduceSync(context.Background(), &kgo.Record{
			Topic: r.topics.Requests, Key: []byte(x.id), Value: []byte(`{"N":2}`),
		}).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if err := c.EndTransaction(context.Background(), x.end); err != nil {
			t.Fatal(err)
		}
	}
	r.expectSum("committed", 2)
	if s, found, err := r.view.Get("aborted"); found || err != nil {
		t.Errorf("a request of an aborted transaction was accepted: %+v %v", s, err)
	}
}

// A partition that is taken away in the middle of planning must not count its request as done.
func TestPlanInterrupted(t *testing.T) {
	for _, how := range []string{"stop", "rebalance"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			planning := make(chan struct{})
			var once sync.Once
			r.set(func() {
				r.planned = func(ctx context.Context) {
					once.Do(func() { close(planning); <-ctx.Done() }) // the first plan never ends by itself
				}
			})
			first := r.coordinator()
			r.request("j", sumRequest{N: 3})
			r.eventually("planning has begun", func() bool {
				select {
				case <-planning:
					return true
				default:
					return false
				}
			})
			if how == "stop" {
				r.stop(first)
			}
			r.coordinator()
			r.worker()
			r.expectSum("j", 3)
		})
	}
}

// A later input without emits must not mark an earlier one whose emits are not acknowledged.
func TestMarksAreInOrder(t *testing.T) {
	t.Parallel()
	r := newFaultyRig(t)
	r.session = time.Second
	first := r.coordinator()
	r.refuse(r.topics.Tasks)
	r.request("j", sumRequest{N: 3})
	other := "" // an id of the same partition
	for i := 0; other == ""; i++ {
		if id := fmt.Sprintf("x%d", i); partitionOf(id, 4) == partitionOf("j", 4) {
			other = id
		}
	}
	r.request(other, sumRequest{Cancel: true})
	r.phase("j", "PLANNED")
	time.Sleep(1200 * time.Millisecond) // two intervals of marks
	offsets, err := r.admin.FetchOffsets(context.Background(), r.topics.Group())
	if err != nil {
		t.Fatal(err)
	}
	if o, found := offsets.Lookup(r.topics.Requests, partitionOf("j", 4)); found && o.At > 0 {
		t.Errorf("offset %d is committed and the request at offset 0 has no tasks yet", o.At)
	}
	r.kill(first)
	r.refuse()
	r.coordinator()
	r.worker()
	r.expectSum("j", 3)
}

// With a stable id, the same instance gets its partitions back without waiting for its session to time out.
func TestStaticMember(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	stable := func(o *Options) { o.InstanceID = "coordinator-0"; o.SessionTimeout = 50 * time.Second }
	first := r.coordinator(stable)
	r.eventually("ready", first.ready)
	r.kill(first)
	r.coordinator(stable)
	r.worker(stable)
	r.request("j", sumRequest{N: 3})
	r.expectSum("j", 3) // waits for 20 s at most
}

// A producer with a partitioner of its own must not lead to a row where nobody finds it.
func TestRequestInTheWrongPartition(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.coordinator()
	r.worker()
	wrong := (partitionOf("j", 4) + 1) % 4
	manual, err := kgo.NewClient(kgo.SeedBrokers(r.brokers...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.UnknownTopicRetries(100))
	if err != nil {
		t.Fatal(err)
	}
	defer manual.Close()
	if err := manual.ProduceSync(context.Background(), &kgo.Record{
		Topic: r.topics.Requests, Partition: wrong, Key: []byte("j"), Value: []byte(`{"N":3}`),
	}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	r.expectSum("j", 3)
}

// A result is lost in a way that no crash of ours explains; the nudge brings the job on.
func TestStalledJobIsNudged(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.coordinator(func(o *Options) { o.Nudge = 400 * time.Millisecond })
	r.request("j", sumRequest{N: 2})
	r.phase("j", "PLANNED")
	// The tasks are gone before any worker has seen them.
	ends, err := r.admin.ListEndOffsets(context.Background(), r.topics.Tasks)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.admin.DeleteRecords(context.Background(), ends.Offsets()); err != nil {
		t.Fatal(err)
	}
	r.worker()
	r.expectSum("j", 2)
}

// Tasks without an end must not hold up others, whatever partition they share, and must end with their job.
func TestEndlessTasks(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	hold := make(chan struct{})
	defer close(hold)
	r.set(func() { r.hold = hold })
	r.coordinator(func(o *Options) { o.Nudge = 300 * time.Millisecond }) // sends the running tasks again and again
	many := func(o *Options) { o.Concurrency = 20 }
	first := r.worker(many)
	r.request("follow", sumRequest{N: 8})
	allRun := func(n int) func() bool {
		return func() bool {
			for i := range 8 {
				if r.ran(fmt.Sprintf("follow/%d", i)) != n {
					return false
				}
			}
			return true
		}
	}
	r.eventually("all tasks run", allRun(1))
	time.Sleep(time.Second)
	if !allRun(1)() {
		t.Error("a task that was sent again ran beside itself")
	}
	r.set(func() { r.hold = nil })
	r.request("other", sumRequest{N: 8})
	r.expectSum("other", 8)

	r.set(func() { r.hold = hold })
	r.stop(first)
	r.worker(many)
	r.eventually("all tasks run again", allRun(2))
	r.request("follow", sumRequest{Cancel: true})
	r.phase("follow", "CANCELLED")
	r.eventually("all tasks are committed", func() bool {
		lags, err := r.admin.Lag(context.Background(), r.topics.WorkerGroup())
		if err != nil {
			return false
		}
		lag := lags[r.topics.WorkerGroup()]
		return lag.Lag.Total() == 0
	})
}

func TestTopicsThatDoNotFit(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	narrow := r.topics.Results + ".narrow"
	if _, err := r.admin.CreateTopics(context.Background(), 3, 1, nil, narrow); err != nil {
		t.Fatal(err)
	}
	r.kind.Topics.Results = narrow
	c, err := NewCoordinator(r.kind, r.options())
	if err != nil {
		t.Fatal(err)
	}
	r.eventually("the new topic is known", func() bool {
		err := c.checkTopics()
		return err != nil && !strings.Contains(err.Error(), "not found")
	})
	if err := c.checkTopics(); err == nil || !strings.Contains(err.Error(), narrow+" has 3 partitions and "+r.topics.Requests+" has 4") {
		t.Errorf("got %v", err)
	}
	c.kind.Topics.Results = "nowhere"
	if err := c.checkTopics(); err == nil || !strings.Contains(err.Error(), "create the topics of the catalogue first") {
		t.Errorf("got %v", err)
	}
}
