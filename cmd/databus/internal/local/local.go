// Package local runs a whole Databus in one process: every service as it runs in production, on embedded parts or on
// real servers.
//
// Promise: services share nothing but what separate processes would share (topics, registry, bucket, database) and the
// machine. Each has its own configuration, metrics, operators' port and state directory. A service that fails is started
// again, as Kubernetes would. Everything lives below one directory; a process that is killed and started on it goes on
// where it was.
package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/cmd/databus/internal/setup"
	"databus/pkg/blob"
	"databus/pkg/embedded"
	"databus/pkg/identity"
	"databus/pkg/seal"
	"databus/pkg/service"
	"databus/schemas/codec"
)

// Config of a local Databus.
type Config struct {
	// Dir holds everything: broker, registry, bucket, database, keys and the services' state.
	Dir string
	// API is the address of ingest's API; port 0 means any free one.
	API string
	// BrokerPort and RegistryPort of the embedded parts; 0 means any free one.
	BrokerPort, RegistryPort int
	// External servers take the place of embedded parts.
	External External
	// KeysFile holds the secrets; empty means keys.json in Dir. It is made if it does not exist.
	KeysFile string
	// Instance is the stable id of every service's instance.
	Instance string
	// Settings override the services' own configuration, by service and key.
	Settings map[string]map[string]any
	Log      *slog.Logger
}

// External names real servers; empty fields mean embedded parts.
type External struct {
	Brokers  []string
	Registry string // base URL of the Confluent API
	Bucket   string // URL, as in bucket.url
	Identity string // URL, as in identity.url
}

// Stack is a running local Databus.
type Stack struct {
	Brokers     []string
	RegistryURL string
	APIURL      string
	BucketURL   string
	Registry    codec.Registry
	Codec       *codec.Codec
	Bucket      blob.Bucket
	Stores      identity.Stores
	Keys        *seal.Keys
	// Prepared lists what the start had to set up, a line each.
	Prepared []string

	cfg      Config
	suffix   string
	embedded *embedded.Stack
	running  []*running
	closers  []func() error
}

// Start starts everything and returns when the services have been started; see Ready. ctx bounds the start only.
func Start(ctx context.Context, cfg Config) (_ *Stack, err error) {
	if cfg.Dir, err = filepath.Abs(cfg.Dir); err != nil {
		return nil, fmt.Errorf("finding the directory: %w", err)
	}
	if err := os.MkdirAll(cfg.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("making the directory: %w", err)
	}
	if cfg.Instance == "" {
		cfg.Instance = "local"
	}
	s := &Stack{cfg: cfg}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.closeParts())
		}
	}()
	if err := s.openParts(ctx); err != nil {
		return nil, err
	}
	if s.Prepared, err = setup.Run(ctx, setup.Target{Kafka: s.KafkaOpts(), Registry: s.Registry, Bucket: s.Bucket, Stores: s.Stores, Log: cfg.Log}); err != nil {
		return nil, err
	}
	if s.cfg.API, err = freeAddress(cfg.API); err != nil {
		return nil, err
	}
	s.APIURL = "http://" + s.cfg.API
	for _, svc := range Services() {
		r := &running{stack: s, svc: svc}
		s.running = append(s.running, r)
		r.start()
	}
	return s, nil
}

// openParts starts embedded parts, or connects to external ones, and opens bucket, database and keys.
func (s *Stack) openParts(ctx context.Context) (err error) {
	cfg, ext := &s.cfg, s.cfg.External
	if len(ext.Brokers) == 0 {
		s.embedded, err = embedded.StartStack(embedded.StackOptions{Dir: cfg.Dir, BrokerPort: cfg.BrokerPort, RegistryPort: cfg.RegistryPort, Logger: cfg.Log})
		if err != nil {
			return err
		}
		s.closers = append(s.closers, s.embedded.Close)
		s.Brokers, s.RegistryURL = s.embedded.Broker.Seeds(), s.embedded.Registry.URL()
		s.suffix = "." + strconv.Itoa(s.embedded.Broker.Starts())
	} else {
		s.Brokers, s.RegistryURL = ext.Brokers, ext.Registry
		if s.RegistryURL == "" {
			return errors.New("external brokers need an external registry: name its URL")
		}
		if err := setup.Await(ctx, s.KafkaOpts()); err != nil {
			return fmt.Errorf("waiting for Kafka at %v: %w", s.Brokers, err)
		}
	}
	s.Registry = codec.NewRegistry(s.RegistryURL)
	s.Codec = codec.New(s.Registry, codec.Options{})

	bucket := ext.Bucket
	if bucket == "" {
		bucket = "file://" + filepath.Join(cfg.Dir, "bucket")
		if err := os.MkdirAll(filepath.Join(cfg.Dir, "bucket"), 0o755); err != nil {
			return fmt.Errorf("making the bucket's directory: %w", err)
		}
	}
	if s.Bucket, err = blob.Open(ctx, bucket); err != nil {
		return err
	}
	cfg.External.Bucket, s.BucketURL = bucket, bucket
	if cfg.External.Identity == "" {
		cfg.External.Identity = "pebble://" + filepath.Join(cfg.Dir, "identity")
	}
	if s.Stores, err = identity.OpenStores(ctx, cfg.External.Identity); err != nil {
		return err
	}
	s.closers = append(s.closers, s.Stores.Close)
	if cfg.KeysFile == "" {
		cfg.KeysFile = filepath.Join(cfg.Dir, "keys.json")
	}
	s.Keys, err = seal.Load(ctx, cfg.KeysFile, seal.AWSKMS{})
	if errors.Is(err, fs.ErrNotExist) {
		s.Keys, err = seal.Generate(cfg.KeysFile)
	}
	return err
}

// KafkaOpts are the options of clients beside the services'.
func (s *Stack) KafkaOpts(extra ...kgo.Opt) []kgo.Opt {
	return append([]kgo.Opt{
		kgo.SeedBrokers(s.Brokers...), kgo.ClientID("databus-local"), kgo.RecordPartitioner(service.Partitioner()),
		kgo.MetadataMinAge(200 * time.Millisecond), kgo.FetchMaxWait(500 * time.Millisecond), kgo.DisableClientMetrics(),
	}, extra...)
}

// Close stops the services, then the parts.
func (s *Stack) Close() error {
	for _, r := range s.running {
		r.cancel()
	}
	for _, r := range s.running {
		<-r.done
	}
	return s.closeParts()
}

func (s *Stack) closeParts() error {
	var errs []error
	for i := len(s.closers) - 1; i >= 0; i-- {
		errs = append(errs, s.closers[i]())
	}
	s.closers = nil
	return errors.Join(errs...)
}

// freeAddress replaces port 0 by a free port, so that a service that is restarted has the same address.
func freeAddress(addr string) (string, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return "", fmt.Errorf("looking for a port for the API: %w", err)
	}
	defer l.Close()
	return l.Addr().String(), nil
}
