package stream

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/schemas"
	"databus/schemas/codec"
)

// Handlers are a service's functions for one partition. The runtime makes a new set when the partition is assigned and
// whenever a transaction was aborted: what they remember between calls must be derived from stores and may be lost.
type Handlers struct {
	// Inputs holds the function of each input topic. It must depend on nothing but the record and the stores. It returns
	// nil, [Poison], [Wait] or an error of the codec (see Run for what each leads to); any other error ends Run. What it wrote
	// before it returned an error is undone.
	Inputs map[string]func(tx *Tx, rec *kgo.Record) error
	// Finish is called once per transaction for each partition that processed a record, behind its last record: the place
	// to emit one record per changed row instead of one per input. Optional.
	Finish func(tx *Tx) error
	// Pending is about how many rows and records Finish will write, beside those that are written already. A transaction ends
	// once all partitions together come to Options.MaxRows. Optional.
	Pending func() int
	// Again is given records of Options.Recall's topic that were processed before, in order, where the derived rows on this
	// disk do not cover them. It writes derived rows and nothing else. Needed with derived stores only.
	Again func(tx *Tx, recs []*kgo.Record) error
}

// Options say what a runtime runs and where. Zero durations and sizes mean the defaults that are given.
type Options struct {
	// Topology holds the edges. Inputs are the edges of kind Source, Table and Loop whose Group is Group; tables are read
	// up to their end before the other inputs start. Sinks are edges of kind Sink and Loop. With stores, the edge of kind
	// Changelog takes their rows.
	Topology schemas.Topology
	// Group is the consumer group; default the service's name.
	Group string
	// Stores are the state stores; none means a stateless topology without changelog.
	Stores []Store
	// Recall says what derived stores follow from; needed with them only.
	Recall Recall
	// Handlers returns the functions for a partition.
	Handlers func(partition int32) Handlers

	// Instance is the one stable id of this instance: it serves as group.instance.id, in the transactional id and as owner
	// of the state directory, so that a restarted instance fences, and continues, exactly its predecessor.
	Instance string
	// TransactionalSuffix is appended to the transactional id (the embedded broker's start count).
	TransactionalSuffix string
	// Kafka says where the brokers are; no option of a group, consumer or producer.
	Kafka []kgo.Opt
	// Codec encodes changelog entries; needed with stores only.
	Codec *codec.Codec
	// StateDir is the directory of this group's state; needed with stores only. StateFS is nil but in tests.
	StateDir string
	StateFS  vfs.FS

	// CommitInterval is how far apart commits begin, 10 ms or more; default 100 ms: what comes behind a quiet time is committed at once.
	// Brokers whose commits take longer than half of it are left as much time between them, up to an interval. As long as the brokers
	// hold more behind a transaction than it has read, and than 10,000 records, it goes on, up to ten intervals longer: what is read
	// late anyway is written in fewer rows.
	// The first that is committed behind an assignment does not go on, whatever is waiting, so that results move soon behind a restart.
	CommitInterval time.Duration
	// WriteInterval is how long rows of committed transactions are collected before they are written to disk; default 1 s, and a
	// transaction more for each of the instance's partitions, which take turns.
	// What a crash loses of them is read again from the changelog, no more than about WriteRecords records, and with derived stores as
	// many of the inputs. A row that changes in every transaction is written once.
	WriteInterval      time.Duration
	WriteRecords       int           // default 500,000
	TransactionTimeout time.Duration // default 10 s; also how long a dead instance blocks its successors
	SessionTimeout     time.Duration // default 10 s: after that the group gives a dead instance's partitions away
	RebalanceTimeout   time.Duration // default 60 s
	StuckAfter         time.Duration // default 60 s: lag without progress for so long makes the service unready
	MaxRecords         int           // input records of a transaction; default 20,000
	MaxRows            int           // rows and records that a transaction writes, about; default 100,000
	CacheBytes         int           // rows kept in memory per partition, those not yet written included; default 8 MiB
	Parallel           int           // partitions processed at once; default the number of CPUs
	// TombstoneRetention is the changelog's delete.retention.ms; default 24 h. Local rows older than half of it may miss
	// deletions that compaction has forgotten, and are restored from nothing.
	TombstoneRetention time.Duration
	// LeaveOnStop gives the partitions away at once on a clean stop, for scaling down. Else the group keeps them for the
	// session timeout, which is what a restart wants.
	LeaveOnStop bool

	Log     *slog.Logger
	Metrics prometheus.Registerer
	// Health is called when readiness or its reason changes.
	Health func(ready bool, reason string)
	// Crash is a test's hook: an error makes Run return at that point without cleaning up, as a killed process would.
	Crash func(Point) error
}

// Point names a place between two steps of the protocol. Random kills almost never hit them.
type Point string

const (
	InsideRestore Point = "inside restore"         // some of the changelog has been replayed
	AfterFlush    Point = "after flush"            // all records are produced, the transaction is open
	AfterEnd      Point = "after end"              // Kafka has committed
	BeforeState   Point = "before the state batch" // a partition's Pebble batch of one or more transactions is built and not committed
	InsideRecall  Point = "inside recall"          // some of the derived rows are made anew
)

// CrashHook makes Options.Crash of a hook that knows the points by their names; nil stays nil.
func CrashHook(hook func(point string) error) func(Point) error {
	if hook == nil {
		return nil
	}
	return func(p Point) error { return hook(string(p)) }
}

func (o *Options) complete() error {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&o.CommitInterval, 100*time.Millisecond)
	// A short timeout, since it is also how long a dead instance's open transaction hides what follows it.
	def(&o.TransactionTimeout, 10*time.Second)
	def(&o.WriteInterval, time.Second)
	def(&o.SessionTimeout, 10*time.Second)
	def(&o.RebalanceTimeout, time.Minute)
	def(&o.StuckAfter, time.Minute)
	def(&o.TombstoneRetention, 24*time.Hour)
	if o.MaxRecords == 0 {
		o.MaxRecords = 20_000
	}
	if o.MaxRows == 0 {
		o.MaxRows = 100_000
	}
	if o.WriteRecords == 0 {
		o.WriteRecords = 500_000
	}
	if o.CacheBytes == 0 {
		o.CacheBytes = 8 << 20
	}
	if o.Parallel == 0 {
		o.Parallel = runtime.GOMAXPROCS(0)
	}
	if o.Group == "" {
		o.Group = o.Topology.Service
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = prometheus.NewRegistry()
	}
	if o.Health == nil {
		o.Health = func(bool, string) {}
	}
	if o.Crash == nil {
		o.Crash = func(Point) error { return nil }
	}
	switch {
	case o.Group == "":
		return errors.New("stream: the topology names no service and no group")
	case o.Instance == "":
		return errors.New("stream: the instance id must be set, and stay the same over restarts")
	case o.Handlers == nil:
		return errors.New("stream: there are no handlers")
	case o.CommitInterval < 10*time.Millisecond:
		return fmt.Errorf("stream: a commit interval of %v is below 10ms", o.CommitInterval)
	case o.CommitInterval > o.TransactionTimeout/2:
		return fmt.Errorf("stream: a commit interval of %v leaves no room in a transaction timeout of %v", o.CommitInterval, o.TransactionTimeout)
	case len(o.Stores) > 0 && (o.StateDir == "" || o.Codec == nil):
		return errors.New("stream: stores need a state directory and a codec")
	}
	return nil
}

// shape is the topology as the runtime uses it.
type shape struct {
	inputs    []string // tables first: a batch's contracts are seen by the same batch's events
	tables    map[string]bool
	sinks     map[string]bool
	dead      map[string]bool // inputs that have a dead-letter topic
	changelog string          // empty without stores
	stores    map[string]int
	kept      map[string]int // topics that hold the rows of a store: its index + 1
	derived   bool           // there are derived stores
}

func newShape(o *Options) (*shape, error) {
	s := &shape{tables: map[string]bool{}, sinks: map[string]bool{}, dead: map[string]bool{}, stores: map[string]int{}, kept: map[string]int{}}
	var sources, tables []string
	for _, e := range o.Topology.Edges {
		switch {
		case e.Kind == schemas.Table && e.Group == o.Group:
			tables = append(tables, e.Topic)
			s.tables[e.Topic] = true
		case (e.Kind == schemas.Source || e.Kind == schemas.Loop) && e.Group == o.Group:
			sources = append(sources, e.Topic)
		}
		switch e.Kind {
		case schemas.Sink, schemas.Loop:
			s.sinks[e.Topic] = true
		case schemas.Changelog:
			if len(o.Stores) > 0 {
				if s.changelog != "" && s.changelog != e.Topic {
					return nil, fmt.Errorf("stream: group %s has two changelogs, %s and %s", o.Group, s.changelog, e.Topic)
				}
				s.changelog = e.Topic
			}
		}
	}
	s.inputs = slices.Concat(tables, sources)
	if len(sources) == 0 {
		return nil, fmt.Errorf("stream: the topology of %s has no source for group %s", o.Topology.Service, o.Group)
	}
	for _, topic := range s.inputs {
		t, ok := schemas.Lookup(topic)
		s.dead[topic] = ok && t.DeadLetters
	}
	return s, s.addStores(o)
}
