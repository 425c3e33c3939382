package job

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/schemas/event"
)

// world is everything around the state machine in memory: topics as slices, a coordinator that may crash at any step with any
// part of what it wanted to write, workers that may run a task twice.
type world struct {
	rng     *rand.Rand
	crash   float64
	failing map[int]int // attempts of a task that fail
	tasks   int
	stage   stages
	max     int

	row     *State // as the table has it
	said    map[saying]int
	queue   []queued    // the tasks topic
	results []outcome   // the results topic
	counted map[int]int // task -> how often a row recorded its result
	plans   int
	crashes int
	wild    int // tasks that ran under a plan that is not recorded, or before an earlier stage was recorded as done
}

type queued struct {
	plan            string
	number, attempt int
}

// step runs one callback: the decisions it makes one after the other. It returns false for a crash, after which the input
// comes again.
func (w *world) step(f func(s *State) []decision) bool {
	ds := f(w.row)
	var writes []func()
	for _, d := range ds {
		if d.next != nil {
			next := *d.next
			writes = append(writes, func() { w.record(&next) })
		}
		for _, s := range d.say {
			writes = append(writes, func() { w.said[s]++ })
		}
		s := d.next
		if s == nil {
			s = w.row
		}
		for _, n := range d.tasks {
			q := queued{planID(s.Plan), n, int(s.Tasks[n].Attempts)}
			writes = append(writes, func() { w.queue = append(w.queue, q) })
		}
	}
	if w.rng.Float64() >= w.crash {
		for _, write := range writes {
			write()
		}
		return true
	}
	w.crashes++
	for _, write := range writes { // any part; the order within the row's topic stays
		if w.rng.Intn(2) == 0 {
			write()
		}
	}
	return false
}

func (w *world) record(next *State) {
	for i, t := range next.Tasks {
		if t.Done && (w.row == nil || i >= len(w.row.Tasks) || !w.row.Tasks[i].Done || !bytes.Equal(w.row.Plan, next.Plan)) {
			w.counted[i]++
		}
	}
	w.row = next
}

func (w *world) request() bool {
	return w.step(func(s *State) []decision {
		d := onRequest("sum", "j", s, []byte("request"), w.stage, time.Unix(1, 0))
		if d.plan {
			if d.next != nil {
				s = d.next
			}
			w.plans++
			plan := binary.BigEndian.AppendUint32(nil, uint32(w.plans))
			return []decision{d, onPlan(s, plan, w.tasks, w.stage, nil, time.Unix(2, 0))}
		}
		return []decision{d}
	})
}

func (w *world) work() {
	if len(w.queue) == 0 {
		return
	}
	q := w.queue[0]
	switch due(w.row, q.plan, q.number, q.attempt, w.stage) {
	case wait:
		w.queue = append(w.queue[1:], q)
		return
	case skip:
		w.queue = w.queue[1:]
		return
	}
	if w.row == nil || planID(w.row.Plan) != q.plan {
		w.wild++
	}
	for _, n := range openTasks(w.row) {
		if w.stage.of(w.row, n) < w.stage.of(w.row, q.number) {
			w.wild++
		}
	}
	o := outcome{Result: Result{Number: q.number}, plan: q.plan, attempt: q.attempt, value: []byte(q.plan)}
	if q.attempt < w.failing[q.number] {
		o.Error = "failed"
	}
	w.results = append(w.results, o)
	if w.rng.Intn(4) > 0 { // else: the worker dies before its commit
		w.queue = w.queue[1:]
	}
}

func TestMachineSurvivesEveryCrash(t *testing.T) {
	crashes, failedJobs := 0, 0
	for seed := range int64(3000) {
		w := &world{
			rng: rand.New(rand.NewSource(seed)), crash: 0.4, failing: map[int]int{}, tasks: int(seed % 5), max: 3,
			said: map[saying]int{}, counted: map[int]int{},
		}
		if seed%3 > 0 { // the last task alone, or stages of two
			w.stage = func(job State, n int) int {
				if seed%3 == 1 {
					return (n + 1) / len(job.Tasks)
				}
				return n / 2
			}
		}
		fails := false
		for i := range w.tasks {
			if w.rng.Intn(3) == 0 {
				w.failing[i] = w.rng.Intn(4)
				fails = fails || w.failing[i] >= w.max
			}
		}
		requests, position := 1+w.rng.Intn(2), 0
		for n := 0; requests > 0 || position < len(w.results) || len(w.queue) > 0; n++ {
			if n > 10_000 {
				t.Fatalf("seed %d does not come to an end: row %+v, queue %v", seed, w.row, w.queue)
			}
			switch w.rng.Intn(3) {
			case 0:
				if requests > 0 && w.request() {
					requests--
				}
			case 1:
				if position < len(w.results) && w.step(func(s *State) []decision {
					return []decision{onResult(s, w.results[position], w.max, w.stage, nil, time.Unix(3, 0))}
				}) {
					position++
				}
			case 2:
				w.work()
			}
		}
		crashes += w.crashes
		want, names := event.JobPhaseCompleted, []saying{{Accepted, 0}, {Planned, w.tasks}, {Completed, w.tasks}}
		if fails {
			failedJobs++
			want, names[2] = event.JobPhaseFailed, saying{Failed, w.tasks}
		}
		if w.wild > 0 {
			t.Fatalf("seed %d: %d tasks ran under a plan that is not recorded, or before their turn", seed, w.wild)
		}
		if w.row.Phase != want {
			t.Fatalf("seed %d: phase %s, want %s", seed, w.row.Phase, want)
		}
		for i, task := range w.row.Tasks {
			if task.Done {
				names = append(names, saying{TaskDone, i})
				if string(task.Result) != planID(w.row.Plan) || w.counted[i] != 1 {
					t.Fatalf("seed %d: the result of task %d was recorded %d times, or belongs to another plan", seed, i, w.counted[i])
				}
			} else if !fails {
				t.Fatalf("seed %d: completed without task %d", seed, i)
			}
		}
		for _, name := range names {
			if w.said[name] == 0 {
				t.Fatalf("seed %d: %v was never said, only %v", seed, name, w.said)
			}
		}
		for s := range w.said {
			if s.what == Completed && fails || s.what == Failed && !fails {
				t.Fatalf("seed %d: said %v", seed, s)
			}
		}
	}
	if crashes < 3000 || failedJobs < 300 {
		t.Errorf("only %d crashes and %d failed jobs: the test does not test", crashes, failedJobs)
	}
}

func TestLateAndForeignResults(t *testing.T) {
	at := time.Unix(5, 0)
	planned := onPlan(onRequest("sum", "j", nil, nil, nil, at).next, []byte("plan"), 2, nil, nil, at).next
	id := planID([]byte("plan"))
	ok := func(n int) outcome { return outcome{Result: Result{Number: n}, plan: id, value: []byte("v")} }
	failure := func(n, attempt int) outcome {
		return outcome{Result: Result{Number: n, Error: "e"}, plan: id, attempt: attempt}
	}
	once := onResult(planned, failure(0, 0), 3, nil, nil, at).next
	cancelled := onCancel(once, at).next
	for _, c := range []struct {
		name string
		d    decision
		want string
	}{
		{"unknown job", onResult(nil, ok(0), 3, nil, nil, at), "result for an unknown job"},
		{"another plan", onResult(planned, outcome{plan: "x"}, 3, nil, nil, at), "result of another plan"},
		{"number below", onResult(planned, ok(-1), 3, nil, nil, at), "result for a task that is not in the plan"},
		{"number above", onResult(planned, ok(2), 3, nil, nil, at), "result for a task that is not in the plan"},
		{"same failure again", onResult(once, failure(0, 0), 3, nil, nil, at), "repeated failure"},
		{"failure from the future", onResult(once, failure(0, 5), 3, nil, nil, at), "failure of an earlier attempt"},
		{"after cancel", onResult(cancelled, ok(1), 3, nil, nil, at), "result after the end"},
		{"cancel twice", onCancel(cancelled, at), "cancel of a job that has ended"},
		{"cancel unknown", onCancel(nil, at), "cancel of an unknown job"},
	} {
		if c.d.next != nil || c.d.note != c.want {
			t.Errorf("%s: %+v, want no new row and %q", c.name, c.d, c.want)
		}
	}
	if d := onResult(once, ok(0), 3, nil, nil, at); d.next == nil || !d.next.Tasks[0].Done {
		t.Errorf("a late success of an attempt that was given up is a success: %+v", d)
	}
	if once.Tasks[0].Attempts != 1 || planned.Tasks[0].Attempts != 0 {
		t.Error("a step must not change the row it was given")
	}
	last := onResult(onResult(planned, ok(0), 3, nil, nil, at).next, ok(1), 3, nil, func(State) error { return fmt.Errorf("3 rows differ") }, at)
	if last.next.Phase != event.JobPhaseFailed || last.next.Error != "gathering: 3 rows differ" {
		t.Errorf("gather must be able to fail the job: %+v", last.next)
	}
}

func TestReasonsAreBounded(t *testing.T) {
	s := onPlanFailed(onRequest("sum", "j", nil, nil, nil, time.Time{}).next, fmt.Errorf("%s", strings.Repeat("ä", 5000)), time.Time{}).next
	if len(s.Error) > 2003 || !strings.HasSuffix(s.Error, "ä...") {
		t.Errorf("%d bytes, end %q", len(s.Error), s.Error[len(s.Error)-8:])
	}
}

// Rows are looked up by the same partitioner that franz-go and the Java client produce requests with.
func TestPartitioner(t *testing.T) {
	p := kgo.StickyKeyPartitioner(nil).ForTopic("t")
	rng := rand.New(rand.NewSource(1))
	for range 2000 {
		key := make([]byte, rng.Intn(40)+1)
		rng.Read(key)
		n := rng.Intn(50) + 1
		if got, want := partitionOf(string(key), n), p.Partition(&kgo.Record{Key: key}, n); int(got) != want {
			t.Fatalf("key %x of %d partitions: %d, want %d", key, n, got, want)
		}
	}
}

func TestMarks(t *testing.T) {
	m := &marks{done: map[int64]bool{}}
	var passed []int64
	for _, o := range []int64{4, 5, 9, 10} { // offsets have holes
		m.deliver(o)
	}
	for _, o := range []int64{5, 10, 4, 9} {
		m.mark(o, func(next int64) { passed = append(passed, next) })
	}
	if fmt.Sprint(passed) != "[6 11]" || len(m.pending) != 0 || len(m.done) != 0 {
		t.Errorf("passed %v, left %v %v", passed, m.pending, m.done)
	}
}

func TestLedger(t *testing.T) {
	var commits []string
	l := newLedger(parseStarts(new("starts 7:2")), func(position int64, metadata string) {
		commits = append(commits, fmt.Sprintf("%d %s", position, metadata))
	})
	for _, o := range []int64{7, 8, 9} {
		l.deliver(o)
	}
	if n := l.started(7); n != 2 {
		t.Errorf("task 7 was started %d times", n)
	}
	l.count(7, +1)
	l.count(8, +1)
	l.finish(8) // behind 7: nothing to commit yet
	l.count(9, +1)
	l.count(9, -1)
	l.finish(7)
	l.finish(9)
	want := []string{"7 starts 7:3", "7 starts 7:3 8:1", "7 starts 7:3 9:1", "7 starts 7:3", "9 ", "10 "}
	if strings.Join(commits, "\n") != strings.Join(want, "\n") {
		t.Errorf("commits:\n%s\nwant:\n%s", strings.Join(commits, "\n"), strings.Join(want, "\n"))
	}
	many := map[int64]int{}
	for o := range int64(1000) {
		many[1<<60+o] = 5
	}
	if s := formatStarts(many); len(s) > 4096 || len(parseStarts(&s)) != maxStarts {
		t.Errorf("%d bytes of metadata", len(s))
	}
	for _, m := range []string{"", "starts", "starts 1", "starts a:1", "starts 1:-1", "other 1:1"} {
		if got := parseStarts(&m); len(got) != 0 {
			t.Errorf("%q became %v", m, got)
		}
	}
}
