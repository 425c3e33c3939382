package embedded

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/twmb/franz-go/pkg/kfake"
)

// BrokerOptions say where a Broker listens and what it keeps.
// The zero value is a broker in memory on a free port of the loopback interface.
type BrokerOptions struct {
	// Dir holds everything that the broker keeps. It is created if need be and belongs to one broker at a time.
	// Empty: everything is in memory and gone after Close.
	Dir string
	// Port of the loopback interface; 0 means any free one.
	Port int
	// Configs are broker settings on top of this package's own, in Kafka's names.
	Configs map[string]string
	// SyncWrites makes every write durable against a power cut, at a large cost in throughput.
	// Without it a write survives the death of the process, but not that of the machine.
	SyncWrites bool
	// Logger receives the broker's warnings and what it repaired at its start. nil discards them.
	Logger *slog.Logger
}

// brokerConfigs are the settings that differ from Kafka's defaults.
func brokerConfigs() map[string]string {
	// A hundred years: the broker's compaction and retention rewrite a partition in place, so that a kill in between
	// would lose it, and they ignore open transactions. See the package comment.
	const never = "3155760000000"
	return map[string]string{
		"log.cleaner.backoff.ms":       never,
		"log.retention.ms":             "-1",
		"offsets.retention.minutes":    "5256000", // ten years: a directory may rest for long
		"transaction.max.timeout.ms":   "900000",
		"group.min.session.timeout.ms": "1000", // a restarted process must not wait long for its own ghost
		"group.max.session.timeout.ms": "300000",
		"default.replication.factor":   "1",
		"min.insync.replicas":          "1",
	}
}

// Broker is a Kafka broker in this process. It is safe for concurrent use.
type Broker struct {
	cluster *kfake.Cluster
	addr    string
	starts  int
	lock    io.Closer     // nil in memory
	journal *decisionFile // nil in memory
	once    sync.Once
	err     error
}

// StartBroker starts a broker and returns once it accepts connections. If opts.Dir holds the state of an earlier one,
// every transaction that was open when that one ended is ended first: committed if its commit had been decided,
// else aborted.
//
// It fails if another process uses the directory, if the port is taken, or if the log is damaged in a place that a
// killed process cannot explain.
func StartBroker(opts BrokerOptions) (_ *Broker, err error) {
	log := opts.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	configs := brokerConfigs()
	maps.Copy(configs, opts.Configs)
	kopts := []kfake.Opt{
		kfake.NumBrokers(1),
		kfake.ClusterID("databus-embedded"),
		kfake.BrokerConfigs(configs),
		kfake.GroupMinSessionTimeout(time.Second),
		kfake.WithLogger(kfakeLogger{log}),
		kfake.Ports(opts.Port),
	}
	b := &Broker{starts: 1}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.release())
		}
	}()
	var logDir string
	if opts.Dir != "" {
		logDir = filepath.Join(opts.Dir, "log")
		if err := os.MkdirAll(logDir, 0o750); err != nil {
			return nil, fmt.Errorf("creating the broker's directory: %w", err)
		}
		if b.lock, err = lockDir(opts.Dir); err != nil {
			return nil, fmt.Errorf("locking the broker's directory: %w", err)
		}
		if b.starts, err = countStart(filepath.Join(opts.Dir, "starts")); err != nil {
			return nil, fmt.Errorf("counting the broker's start: %w", err)
		}
		decision := filepath.Join(opts.Dir, "decision")
		done, err := repair(logDir, decision)
		if err != nil {
			return nil, fmt.Errorf("repairing the broker's log: %w", err)
		}
		if done.any() {
			log.Info("repaired the embedded broker's log", "committed", done.committed, "aborted", done.aborted,
				"torn_bytes", done.tornBytes, "indexes", done.indexes)
		}
		if b.journal, err = openDecisionFile(decision, logDir); err != nil {
			return nil, fmt.Errorf("opening the transaction decisions: %w", err)
		}
		kopts = append(kopts, kfake.DataDir(logDir))
		if opts.SyncWrites {
			kopts = append(kopts, kfake.SyncWrites())
		}
	}
	if b.cluster, err = kfake.NewCluster(kopts...); err != nil {
		return nil, fmt.Errorf("starting the embedded broker: %w", err)
	}
	b.addr = b.cluster.ListenAddrs()[0]
	stampAppendTime(b.cluster)
	if b.journal != nil {
		b.journal.observe(b.cluster)
	}
	return b, nil
}

// Addr returns the broker's address, host:port.
func (b *Broker) Addr() string { return b.addr }

// Seeds returns the addresses to start from, as Kafka clients take them.
func (b *Broker) Seeds() []string { return []string{b.addr} }

// Starts says how many times a broker has been started on this directory, this time included; 1 in memory. It rises
// with every start, also after a kill. A transactional id that ends in it is new after each restart, so that it never
// waits for or meets what an earlier life of the broker left.
func (b *Broker) Starts() int { return b.starts }

// Cluster gives tests the broker's own controls, such as injected faults.
func (b *Broker) Cluster() *kfake.Cluster { return b.cluster }

// Close stops the broker and writes its state. Transactions still open are aborted at the next start. It may be called
// more than once.
func (b *Broker) Close() error {
	b.once.Do(func() {
		b.cluster.Close()
		if b.journal != nil {
			b.err = b.journal.forget()
		}
		b.err = errors.Join(b.err, b.release())
	})
	return b.err
}

// release gives back what a broker holds besides the cluster.
func (b *Broker) release() error {
	var errs []error
	if b.journal != nil {
		errs = append(errs, b.journal.close())
	}
	if b.lock != nil {
		errs = append(errs, b.lock.Close())
	}
	return errors.Join(errs...)
}

// lockDir takes the directory for this process; the operating system gives it back when the process ends.
func lockDir(dir string) (io.Closer, error) {
	lock, err := vfs.Default.Lock(filepath.Join(dir, "LOCK"))
	if err != nil {
		return nil, fmt.Errorf("%w (does another process run on %s?)", err, dir)
	}
	return lock, nil
}

// kfakeLogger passes the cluster's warnings and errors on.
type kfakeLogger struct{ log *slog.Logger }

func (l kfakeLogger) Logf(level kfake.LogLevel, format string, args ...any) {
	switch level {
	case kfake.LogLevelError:
		l.log.Error("embedded broker: " + fmt.Sprintf(format, args...))
	case kfake.LogLevelWarn:
		l.log.Warn("embedded broker: " + fmt.Sprintf(format, args...))
	}
}
