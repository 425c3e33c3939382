package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/schemas"
	"databus/schemas/codec"
)

// Addresses used when neither flags, environment nor a running `databus dev` name others.
const (
	defaultDir      = "data"
	defaultBroker   = "127.0.0.1:9092"
	defaultRegistry = "http://127.0.0.1:8081"
)

// Globals are the flags of every command, and the process's streams.
type Globals struct {
	Brokers  []string `env:"DATABUS_BROKERS" placeholder:"HOST:PORT" help:"Kafka brokers to start from; default: those of the running 'databus dev', else 127.0.0.1:9092."`
	Registry string   `env:"DATABUS_REGISTRY" placeholder:"URL" help:"Base URL of the schema registry's Confluent API; default: that of the running 'databus dev', else http://127.0.0.1:8081."`
	Dir      string   `env:"DATABUS_DIR" default:"${default_dir}" placeholder:"DIR" help:"Directory of 'databus dev' (default: ./data)."`

	In  io.Reader `kong:"-"`
	Out io.Writer `kong:"-"`
	Err io.Writer `kong:"-"`
}

// devFile is what `databus dev` leaves in its directory while it runs, so that commands find it without flags.
const devFile = "dev.json"

// A devState is the content of dev.json.
type devState struct {
	Brokers  []string `json:"brokers"`
	Registry string   `json:"registry"`
	HTTP     string   `json:"http,omitempty"` // base URL of ingest's API
	// Bucket is the archive's and the graphs' bucket.
	Bucket string `json:"bucket,omitempty"`
	// Tools is the base URL at which it answers about parts that one process alone can open.
	Tools string `json:"tools,omitempty"`
}

// write publishes the state in a directory; a reader sees all of it or nothing.
func (s devState) write(dir string) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("writing %s: %w", devFile, err)
	}
	path := filepath.Join(dir, devFile)
	if err := os.WriteFile(path+".tmp", append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("writing %s: %w", devFile, err)
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return fmt.Errorf("writing %s: %w", devFile, err)
	}
	return nil
}

// readDev reads what a `databus dev` on a directory has left there; false where there is none.
func readDev(dir string) (devState, bool, error) {
	var dev devState
	path := filepath.Join(dir, devFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return dev, false, nil
	}
	if err != nil {
		return dev, false, fmt.Errorf("reading the addresses of `databus dev`: %w", err)
	}
	if err := json.Unmarshal(b, &dev); err != nil {
		return dev, false, fmt.Errorf("reading %s: %w; start `databus dev` again to write it anew", path, err)
	}
	return dev, true, nil
}

// dev is the `databus dev` that the command talks to; false where it talks to servers that were named.
func (g *Globals) dev() (devState, bool, error) {
	if len(g.Brokers) > 0 {
		return devState{}, false, nil
	}
	return readDev(g.Dir)
}

// target is where a command's brokers and registry are, and how it knows.
type target struct {
	brokers  []string
	registry string
	// brokersFrom and registryFrom end the sentence "nothing answers at ADDRESS, ...".
	brokersFrom, registryFrom string
}

// target resolves addresses: flags and environment first, then dev.json, then the defaults.
func (g *Globals) target() (target, error) {
	t := target{brokers: g.Brokers, registry: g.Registry, brokersFrom: "named by --brokers", registryFrom: "named by --registry"}
	if len(t.brokers) > 0 && t.registry != "" {
		return t, nil
	}
	dev, running, err := readDev(g.Dir)
	if err != nil {
		return t, err
	}
	from := "named by " + filepath.Join(g.Dir, devFile)
	if !running {
		dev, from = devState{Brokers: []string{defaultBroker}, Registry: defaultRegistry}, "the default"
	}
	if len(t.brokers) == 0 {
		t.brokers, t.brokersFrom = dev.Brokers, from
	}
	if t.registry == "" {
		t.registry, t.registryFrom = dev.Registry, from
	}
	return t, nil
}

// options are the Kafka client's options of every command: records go to the partition that the catalogue says.
func (t target) options(extra ...kgo.Opt) []kgo.Opt {
	return append([]kgo.Opt{
		kgo.SeedBrokers(t.brokers...),
		kgo.ClientID("databus-cli"),
		kgo.MetadataMinAge(200 * time.Millisecond),
		kgo.FetchMaxWait(500 * time.Millisecond),
		kgo.RecordPartitioner(kgo.BasicConsistentPartitioner(func(topic string) func(*kgo.Record, int) int {
			return func(r *kgo.Record, n int) int { return int(schemas.Partition(topic, r.Key, int32(n))) }
		})),
	}, extra...)
}

// kafka connects to the brokers and makes sure that one of them answers.
func (g *Globals) kafka(ctx context.Context, extra ...kgo.Opt) (*kgo.Client, error) {
	t, err := g.target()
	if err != nil {
		return nil, err
	}
	cl, err := kgo.NewClient(t.options(extra...)...)
	if err != nil {
		return nil, fmt.Errorf("configuring the Kafka client: %w", err)
	}
	ping, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := cl.Ping(ping); err != nil {
		cl.Close()
		return nil, fmt.Errorf("no Kafka broker answers at %s, %s; start `databus dev` or name other brokers with --brokers (%w)",
			strings.Join(t.brokers, ","), t.brokersFrom, err)
	}
	return cl, nil
}

// registry returns a client of the schema registry; it does not connect yet.
func (g *Globals) registry() (codec.Registry, string, error) {
	t, err := g.target()
	if err != nil {
		return nil, "", err
	}
	return codec.NewRegistry(t.registry), t.registry, nil
}

// codec returns a codec on the registry. It registers nothing: that is what `databus schemas register` is for.
func (g *Globals) codec() (*codec.Codec, error) {
	r, _, err := g.registry()
	if err != nil {
		return nil, err
	}
	return codec.New(&known{Registry: r, ids: map[string]int{}}, codec.Options{}), nil
}

// known is a registry that is asked only once for the id of each subject's schema, not for every line of input. A
// command works with one schema per subject.
type known struct {
	codec.Registry
	mu  sync.Mutex
	ids map[string]int // by subject
}

func (k *known) ID(ctx context.Context, subject, schema string) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if id, ok := k.ids[subject]; ok {
		return id, nil
	}
	id, err := k.Registry.ID(ctx, subject, schema)
	if err == nil {
		k.ids[subject] = id
	}
	return id, err
}

// cluster is what packages need that make clients of their own.
type cluster struct {
	kafka    []kgo.Opt
	registry codec.Registry
	codec    *codec.Codec
}

// reach makes sure that a broker answers: those packages would wait for one that is away, and say nothing.
func (g *Globals) reach(ctx context.Context) (cluster, error) {
	t, err := g.target()
	if err != nil {
		return cluster{}, err
	}
	registry, _, err := g.registry()
	if err != nil {
		return cluster{}, err
	}
	cdc, err := g.codec()
	if err != nil {
		return cluster{}, err
	}
	cl, err := g.kafka(ctx)
	if err != nil {
		return cluster{}, err
	}
	cl.Close()
	return cluster{kafka: t.options(), registry: registry, codec: cdc}, nil
}

// upToNow waits until who follows a topic has read all of it; where that fails it closes him.
func upToNow(ctx context.Context, topic string, read func(context.Context) error, closes func()) error {
	bounded, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := read(bounded); err != nil {
		closes()
		return fmt.Errorf("reading %s: %w", topic, err)
	}
	return nil
}

// registryHint adds to an outage where the address came from.
func (g *Globals) registryHint(err error) error {
	if !errors.Is(err, codec.ErrUnavailable) {
		return err
	}
	t, terr := g.target()
	if terr != nil {
		return err
	}
	return fmt.Errorf("no schema registry answers at %s, %s; start `databus dev` or name another one with --registry (%w)", t.registry, t.registryFrom, err)
}
