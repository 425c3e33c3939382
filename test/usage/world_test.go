package usage

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/service"
	"databus/pkg/topics"
	"databus/schemas"
	"databus/test/process"
	"databus/test/stack"
	"databus/test/usage/verify"
)

// The services of the usage half, which are also their groups.
const (
	aggregator   = "usage-aggregator"
	limiter      = "limiter"
	usageHistory = "usage-history"
)

var services = []string{aggregator, limiter}

// inputs of the services.
var inputs = map[string][]string{
	aggregator: {schemas.UsageEvents, schemas.UsageContracts, schemas.UsageBaselines},
	limiter:    {schemas.UsageCounts, schemas.UsageContracts},
}

// world is where a proof takes place: brokers with the catalogue's topics, a registry, and the programs.
type world struct {
	t        testing.TB
	brokers  []string
	registry string
	bin, dir string
	opts     []kgo.Opt
	client   *kgo.Client
	admin    *kadm.Client

	session, transaction, commit time.Duration
	window                       time.Duration // of the repeats
}

// binaries are built once for all tests of the process.
var binaries process.Binaries

// programs returns the directory of the programs.
func programs(t testing.TB) string {
	t.Helper()
	dir, err := binaries.Build("databus/services/usage-aggregator/cmd/usage-aggregator", "databus/services/limiter/cmd/limiter",
		"databus/services/archiver/cmd/archiver", "databus/services/usage-history/cmd/usage-history", "databus/test/usage/cmd/instance")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// onEmbedded is a world on the embedded broker in a process of its own, which is never killed.
func onEmbedded(t testing.TB) *world {
	t.Helper()
	broker, registry := stack.Start(t, &binaries)
	return newWorld(t, programs(t), []string{broker}, registry, usageTopics())
}

func newWorld(t testing.TB, bin string, brokers []string, registry string, all []schemas.Topic) *world {
	t.Helper()
	w := &world{t: t, brokers: brokers, registry: registry, bin: bin,
		dir:     t.ArtifactDir(), // -artifacts keeps logs and states
		session: 2 * time.Second, transaction: 5 * time.Second, commit: 50 * time.Millisecond, window: 20 * time.Second}
	w.opts = []kgo.Opt{kgo.SeedBrokers(brokers...), kgo.MetadataMinAge(100 * time.Millisecond), kgo.FetchMaxWait(200 * time.Millisecond),
		kgo.RecordPartitioner(service.Partitioner()), kgo.ProducerLinger(5 * time.Millisecond)}
	var err error
	if w.client, err = kgo.NewClient(w.opts...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.client.Close)
	w.admin = kadm.NewClient(w.client)
	if _, err := topics.Apply(t.Context(), w.admin, all, topics.Options{}); err != nil {
		t.Fatal(err)
	}
	return w
}

// usageTopics are the catalogue's topics of the usage half, and what the archiver needs.
func usageTopics() (all []schemas.Topic) {
	for _, t := range schemas.WithDeadLetters() {
		if strings.HasPrefix(t.Name, "usage") || strings.HasPrefix(t.Name, "limiter") || t.Name == schemas.ArchiveFiles || strings.HasPrefix(t.Name, schemas.DatabusRecords) {
			all = append(all, t)
		}
	}
	return all
}

// patience bounds every wait for the services.
const patience = 3 * time.Minute

// passed waits until a service's group has committed everything up to ends.
func (w *world) passed(ctx context.Context, service string, ends kadm.ListedOffsets) error {
	deadline := time.Now().Add(patience)
	for {
		committed, err := w.admin.FetchOffsets(ctx, service)
		behind := 0
		ends.Each(func(end kadm.ListedOffset) {
			if o, ok := committed.Lookup(end.Topic, end.Partition); end.Offset > 0 && (!ok || o.At < end.Offset) {
				behind++
			}
		})
		if err == nil && behind == 0 {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s does not get on: %d partitions are behind after %v (%w)", service, behind, patience, err)
		}
		time.Sleep(30 * time.Millisecond)
	}
}

// endsOf lists the ends of topics, and tries again while brokers are away.
func (w *world) endsOf(ctx context.Context, topics ...string) (kadm.ListedOffsets, error) {
	deadline := time.Now().Add(patience)
	for {
		ends, err := w.admin.ListEndOffsets(ctx, topics...)
		if err == nil {
			err = ends.Error()
		}
		if err == nil || ctx.Err() != nil || time.Now().After(deadline) {
			return ends, err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// caughtUp waits until everything sent has been counted and everything counted has been compared.
func (w *world) caughtUp(ctx context.Context) error {
	for _, s := range services {
		ends, err := w.endsOf(ctx, inputs[s]...)
		if err != nil {
			return err
		}
		if err := w.passed(ctx, s, ends); err != nil {
			return err
		}
	}
	return nil
}

// verify stops the instances that run and verifies everything. states are those with a state to look into.
func (w *world) verify(what string, all ...*instance) *verify.Report {
	w.t.Helper()
	ctx := w.t.Context()
	if err := w.caughtUp(ctx); err != nil {
		w.t.Fatalf("%s: %v%s", what, err, tails(all))
	}
	var dirs []string
	for _, i := range all {
		if i.Running() {
			if err := i.Stop(); err != nil {
				w.t.Fatalf("%s: %v", what, err)
			}
		}
		dirs = append(dirs, i.stateDir())
	}
	r, err := verify.Verify(ctx, verify.Options{Kafka: w.opts, Registry: w.registry, DedupWindow: w.window, Instances: dirs})
	if err != nil {
		w.t.Fatalf("%s: %v", what, err)
	}
	figures.add(r)
	w.t.Logf("%s: %v", what, r)
	if err := r.Err(); err != nil {
		w.t.Errorf("%s: %v", what, err)
	}
	return r
}

func tails(all []*instance) string {
	var b strings.Builder
	for _, i := range all {
		fmt.Fprintf(&b, "\n%s:\n%s", i.Name, i.Tail())
	}
	return b.String()
}
