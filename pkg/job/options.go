package job

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/IBM/sarama"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
)

// Codec encodes and decodes the rows of the group table: Encode receives a *State, Decode returns a *State or a State that
// shares no memory with its input. It is a goka.Codec; NewRows makes one on the registry. An error of Decode stops the coordinator: a row is never skipped.
type Codec interface {
	Encode(value any) ([]byte, error)
	Decode(data []byte) (any, error)
}

// Options are those of coordinators, workers and views; zero values mean the default.
type Options struct {
	Brokers []string
	Codec   Codec
	// InstanceID is the stable id of this instance, for static membership: after a crash the same instance takes its
	// partitions back at once, and a clean stop keeps them for SessionTimeout. Empty: an ordinary member.
	InstanceID string
	Log        *slog.Logger          // default: slog.Default()
	Registerer prometheus.Registerer // nil: no metrics

	TLS  *tls.Config    // of all connections to the brokers; nil: none
	SASL sasl.Mechanism // at all brokers: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512; nil: none

	Sarama func(*sarama.Config) // adjusts the coordinator's and the view's clients; may be nil
	Kafka  []kgo.Opt            // adds to the worker's client; may be nil

	SessionTimeout time.Duration // group session of coordinators and workers, default 10 s
	PlanTimeout    time.Duration // for one call of Kind.Plan, default 30 s, below the rebalance timeout of 60 s
	Nudge          time.Duration // an open job without progress for this long has its request repeated, default 15 min

	MaxAttempts  int           // failures of a task after which its job fails, default 3
	MaxStarts    int           // starts of a task that ended with the death of its worker, after which it counts as failed, default 5
	MaxTasks     int           // tasks a job, default 10,000
	MaxRow       int           // bytes of an encoded row, default 900 KiB, below the brokers' 1 MiB a record
	MaxValue     int           // bytes of a request or a result, default 256 KiB
	Concurrency  int           // tasks that a worker runs at once, default 2; tasks without an end each take one for good
	RetryBackoff time.Duration // before a task's second attempt, doubled for each later one up to a minute, default 1 s
}

func (o Options) withDefaults() (Options, error) {
	if len(o.Brokers) == 0 {
		return o, errors.New("job options: no brokers")
	}
	if o.Codec == nil {
		return o, errors.New("job options: no codec for the rows of the group table")
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if err := o.secure(sarama.NewConfig()); err != nil {
		return o, fmt.Errorf("job options: %w", err)
	}
	def(&o.SessionTimeout, 10*time.Second)
	def(&o.PlanTimeout, 30*time.Second)
	def(&o.Nudge, 15*time.Minute)
	def(&o.MaxAttempts, 3)
	def(&o.MaxStarts, 5)
	def(&o.MaxTasks, 10_000)
	def(&o.MaxRow, 900<<10)
	def(&o.MaxValue, 256<<10)
	def(&o.Concurrency, 2)
	def(&o.RetryBackoff, time.Second)
	if o.PlanTimeout >= time.Minute {
		return o, fmt.Errorf("job options: plan timeout %v must be below a minute, or a rebalance would not wait for it", o.PlanTimeout)
	}
	return o, nil
}

func def[T int | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// row brings what a Codec or goka returns into one form; nil for no row.
func row(v any) (*State, error) {
	switch s := v.(type) {
	case nil:
		return nil, nil
	case *State:
		return s, nil
	case State:
		return &s, nil
	}
	return nil, fmt.Errorf("the table's codec gave a %T instead of a JobState", v)
}

// gokaLogger passes goka's log on. goka has one level; its notes on every rebalance are of use for debugging only.
type gokaLogger struct{ log *slog.Logger }

func (l gokaLogger) Print(v ...any)            { l.write(fmt.Sprint(v...)) }
func (l gokaLogger) Println(v ...any)          { l.write(fmt.Sprint(v...)) }
func (l gokaLogger) Printf(f string, v ...any) { l.write(fmt.Sprintf(f, v...)) }
func (l gokaLogger) Debugf(f string, v ...any) { l.log.Debug(fmt.Sprintf(f, v...), "from", "goka") }

func (l gokaLogger) write(s string) {
	if strings.Contains(strings.ToLower(s), "error") {
		l.log.Warn(s, "from", "goka")
		return
	}
	l.log.Debug(s, "from", "goka")
}

// metrics are shared by all coordinators and workers of a process that pass the same Registerer.
type metrics struct {
	inputs *prometheus.CounterVec // kind, input, effect
	ended  *prometheus.CounterVec // kind, phase
	tasks  *prometheus.CounterVec // kind, outcome
}

func newMetrics(r prometheus.Registerer) metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
		if r == nil {
			return c
		}
		if err := r.Register(c); err != nil {
			var known prometheus.AlreadyRegisteredError
			if errors.As(err, &known) {
				if c, ok := known.ExistingCollector.(*prometheus.CounterVec); ok {
					return c
				}
			}
		}
		return c
	}
	return metrics{
		inputs: counter("databus_job_inputs_total",
			"Requests and results by effect: applied, none (repeats and the like), rerouted, rejected.", "kind", "input", "effect"),
		ended: counter("databus_job_ended_total", "Ends of jobs by phase; a crash may count one twice.", "kind", "phase"),
		tasks: counter("databus_job_tasks_total",
			"Deliveries of tasks to workers by outcome: done, failed, skipped, stopped.", "kind", "outcome"),
	}
}
