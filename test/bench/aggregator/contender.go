package aggregator

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"databus/schemas"
	"databus/test/bench/streams"
	"databus/test/process"
	"databus/test/servers/fetch"
)

// A contender counts usage.events.
type contender interface {
	name() string
	group() string  // consumer group, the same until the next fresh
	output() string // topic of its counts
	// fresh gives it new outputs, an empty state and no committed offsets. It must not run.
	fresh(ctx context.Context) error
	wipe() error // deletes the local state; it must not run
	start(commit time.Duration, dedup bool) (*process.Program, error)
	// recalled is how long of its start a program has made the ids of the window anew; 0 if that is not told apart.
	recalled(p *process.Program) time.Duration
}

// program starts a contender's program.
func (b *bench) program(name, log string, cmd *exec.Cmd) (*process.Program, error) {
	p := &process.Program{Name: name, Log: filepath.Join(b.o.Dir, log)}
	if err := p.Start(cmd); err != nil {
		return nil, err
	}
	return p, nil
}

const dedupWindow = 24 * time.Hour

// ours is the service's own binary.
type ours struct {
	b      *bench
	binary string
	extra  []string // --set key=value
}

func newOurs(ctx context.Context, b *bench) (*ours, error) {
	o := &ours{b: b, binary: filepath.Join(b.o.Dir, "usage-aggregator")}
	return o, fetch.Run(ctx, ".", nil, "go", "build", "-o", o.binary, "databus/services/usage-aggregator/cmd/usage-aggregator")
}

func (o *ours) name() string   { return "databus" }
func (o *ours) group() string  { return "usage-aggregator" }
func (o *ours) output() string { return schemas.UsageCounts }
func (o *ours) state() string  { return filepath.Join(o.b.o.Dir, "state-databus") }
func (o *ours) wipe() error    { return os.RemoveAll(o.state()) }

func (o *ours) fresh(ctx context.Context) error {
	if err := o.wipe(); err != nil {
		return err
	}
	var topics []schemas.Topic
	for _, t := range schemas.WithDeadLetters() {
		if t.Name != schemas.UsageEvents {
			topics = append(topics, t)
		}
	}
	return o.b.recreate(ctx, o.group(), topics)
}

func (o *ours) start(commit time.Duration, dedup bool) (*process.Program, error) {
	if err := os.MkdirAll(o.state(), 0o755); err != nil {
		return nil, fmt.Errorf("making the state directory: %w", err)
	}
	window := time.Duration(0)
	if dedup {
		window = dedupWindow
	}
	var args []string
	for _, s := range append([]string{
		"kafka.brokers=" + o.b.addr, "registry.url=" + o.b.registry, "instance.id=bench", "instance.state_dir=" + o.state(),
		"http.listen=" + o.b.o.Listen, "log.level=info", "log.format=json",
		"usage-aggregator.commit_interval=" + commit.String(), "usage-aggregator.dedup_window=" + window.String(),
	}, o.extra...) {
		args = append(args, "--set", s)
	}
	return o.b.program(o.name(), "databus.log", exec.Command(o.binary, args...))
}

func (o *ours) recalled(p *process.Program) (took time.Duration) {
	for line := range strings.Lines(p.Output()) {
		var said struct {
			Msg string        `json:"msg"`
			In  time.Duration `json:"in"`
		}
		if json.Unmarshal([]byte(line), &said) == nil && said.Msg == "derived state made anew" {
			took += said.In
		}
	}
	return took
}

// peer is the same work on Kafka Streams.
type peer struct {
	b     *bench
	java  string
	flags []string
	run   int
}

// JVMFlags of the peer. Parallel was the faster collector of the two on two cores; the heap holds its 64 MiB cache, its
// buffers and what fetches bring, with room; RocksDB's memory comes on top.
var jvmFlags = []string{"-Xms256m", "-Xmx512m", "-XX:+UseParallelGC"}

func newPeer(ctx context.Context, b *bench) (*peer, error) {
	java, _, err := fetch.Java(ctx)
	if err != nil {
		return nil, err
	}
	cache, err := fetch.Open()
	if err != nil {
		return nil, err
	}
	classes, err := cache.JavaProject(ctx, "bench-streams", streams.Sources)
	if err != nil {
		return nil, err
	}
	flags := append(jvmFlags[:len(jvmFlags):len(jvmFlags)], "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", classes)
	return &peer{b: b, java: java, flags: flags}, nil
}

func (p *peer) name() string   { return "streams" }
func (p *peer) group() string  { return "bench-streams-" + strconv.Itoa(p.run) }
func (p *peer) output() string { return "bench.counts-" + strconv.Itoa(p.run) }
func (p *peer) state() string  { return filepath.Join(p.b.o.Dir, "state-streams") }
func (p *peer) wipe() error    { return os.RemoveAll(p.state()) }

func (p *peer) recalled(*process.Program) time.Duration { return 0 }

func (p *peer) fresh(ctx context.Context) error {
	if err := p.wipe(); err != nil {
		return err
	}
	if p.run > 0 {
		if err := p.b.remove(ctx, p.group(), func(topic string) bool {
			return topic == p.output() || strings.HasPrefix(topic, p.group()+"-")
		}); err != nil {
			return err
		}
	}
	p.run++
	t := schemas.MustLookup(schemas.UsageCounts)
	t.Name = p.output()
	return p.b.recreate(ctx, p.group(), []schemas.Topic{t})
}

func (p *peer) start(commit time.Duration, dedup bool) (*process.Program, error) {
	window := time.Duration(0)
	if dedup {
		window = dedupWindow
	}
	args := append(p.flags[:len(p.flags):len(p.flags)], "databus.bench.UsageAggregator", p.b.addr, p.b.registry, p.group(), "bench", p.state(),
		schemas.UsageEvents, p.output(), strconv.FormatInt(commit.Milliseconds(), 10), strconv.FormatInt(window.Milliseconds(), 10))
	return p.b.program(p.name(), "streams.log", exec.Command(p.java, args...))
}
