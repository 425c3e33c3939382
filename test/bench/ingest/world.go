package ingest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	gocql "github.com/apache/cassandra-gocql-driver/v2"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/blob"
	"databus/pkg/graph"
	"databus/pkg/identity"
	"databus/pkg/seal"
	"databus/pkg/service"
	"databus/pkg/topics"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
	"databus/test/process"
)

const (
	database     = "v1"
	applierGroup = "ingest.applier." + database
	ours         = "bench_ingest" // keyspace that ingest fills
	theirs       = "bench_driver" // keyspace that the driver fills
)

// world is prepared servers, and ingest running on them.
type world struct {
	o        Options
	opts     []kgo.Opt
	client   *kgo.Client
	admin    *kadm.Client
	codec    *codec.Codec
	resolver *identity.Resolver
	session  *gocql.Session
	api      string // base URL
	process  *process.Program
	close    []func()
}

func (w *world) Close() {
	for i := len(w.close) - 1; i >= 0; i-- {
		w.close[i]()
	}
}

// open prepares the servers as `databus init` does and starts ingest.
func open(ctx context.Context, o Options) (_ *world, err error) {
	w := &world{o: o}
	defer func() {
		if err != nil {
			w.Close()
		}
	}()
	keyFile, bucketDir := filepath.Join(o.Dir, "keys.json"), filepath.Join(o.Dir, "bucket")
	keys, err := seal.Generate(keyFile)
	if err := errors.Join(err, os.MkdirAll(bucketDir, 0o755)); err != nil {
		return nil, err
	}
	w.opts = []kgo.Opt{kgo.SeedBrokers(o.Brokers...), kgo.MetadataMinAge(100 * time.Millisecond), kgo.FetchMaxWait(200 * time.Millisecond), kgo.RecordPartitioner(service.Partitioner())}
	if w.client, err = kgo.NewClient(w.opts...); err != nil {
		return nil, err
	}
	w.close = append(w.close, w.client.Close)
	w.admin = kadm.NewClient(w.client)
	if _, err := topics.Apply(ctx, w.admin, schemas.WithDeadLetters(), topics.Options{}); err != nil {
		return nil, err
	}
	w.codec = codec.New(codec.NewRegistry(o.Registry), codec.Options{RegisterSchemas: true})
	bucket, err := blob.Open(ctx, "file://"+bucketDir)
	if err != nil {
		return nil, err
	}
	if _, err := graph.PublishGenesis(ctx, graph.Sink{Kafka: w.opts, Codec: w.codec, Bucket: bucket}); err != nil {
		return nil, err
	}
	url := "cassandra://" + strings.Join(o.Cassandra, ",") + "?replication=1&timeout=60s"
	stores, err := identity.OpenStores(ctx, url)
	if err != nil {
		return nil, err
	}
	defer func() { _ = stores.Close() }()
	for _, name := range []string{ours, theirs} {
		store, err := stores.Keyspace(name)
		if err != nil {
			return nil, err
		}
		if err := errors.Join(store.Drop(ctx), store.Create(ctx)); err != nil {
			return nil, err
		}
	}
	if err := identity.Announce(ctx, w.client, w.codec, event.DatabaseVersion{Version: database, Keyspace: ours, GraphVersion: graph.GenesisVersion,
		ApplierGroup: applierGroup, State: event.DatabaseStateServing}); err != nil {
		return nil, err
	}
	if err := w.connect(); err != nil {
		return nil, err
	}
	keyring, err := seal.OpenKeyring(ctx, seal.Options{Kafka: w.opts, Codec: w.codec, Keys: keys})
	if err != nil {
		return nil, err
	}
	w.close = append(w.close, keyring.Close)
	if w.resolver, err = identity.NewResolver(keys, keyring, "US"); err != nil {
		return nil, err
	}
	return w, w.start(ctx, url, keyFile, bucketDir)
}

// connect opens the driver's session with the settings that the identity store has.
func (w *world) connect() (err error) {
	config := gocql.NewCluster(w.o.Cassandra...)
	config.Consistency = gocql.LocalQuorum
	config.Timeout, config.WriteTimeout, config.ConnectTimeout = time.Minute, time.Minute, time.Minute
	config.DefaultIdempotence, config.DefaultTimestamp = true, false
	config.PoolConfig.HostSelectionPolicy = gocql.TokenAwareHostPolicy(gocql.RoundRobinHostPolicy())
	if w.session, err = config.CreateSession(); err == nil {
		w.close = append(w.close, w.session.Close)
	}
	return err
}

// start builds ingest's program and waits until it is ready.
func (w *world) start(ctx context.Context, store, keyFile, bucket string) error {
	var binaries process.Binaries
	w.close = append(w.close, binaries.Remove)
	binary, err := binaries.Path("databus/services/ingest/cmd/ingest")
	if err != nil {
		return err
	}
	api, err1 := process.FreeAddress()
	admin, err2 := process.FreeAddress()
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	var args []string
	for _, s := range append([]string{
		"kafka.brokers=" + strings.Join(w.o.Brokers, ","), "registry.url=" + w.o.Registry, "registry.register_schemas=true", "bucket.url=file://" + bucket,
		"identity.url=" + store, "keys.file=" + keyFile, "instance.id=bench", "instance.state_dir=" + filepath.Join(w.o.Dir, "state"),
		"http.listen=" + admin, "http.profile=true", "log.format=text", "ingest.api.listen=" + api,
	}, w.o.Set...) {
		args = append(args, "--set", s)
	}
	w.process = &process.Program{Name: "ingest", Log: filepath.Join(w.o.Dir, "ingest.log")}
	if err := w.process.Start(exec.Command(binary, args...)); err != nil {
		return err
	}
	w.close = append(w.close, func() { _ = w.process.Stop() })
	w.api = "http://" + api
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if err := w.process.Alive(); err != nil {
			return err
		}
		resp, err := http.Get("http://" + admin + "/readyz")
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("ingest does not become ready; see %s", w.process.Log)
		}
	}
}

// applied waits until the applier has committed everything on the Databus.
func (w *world) applied(ctx context.Context) error {
	ends, err := w.admin.ListEndOffsets(ctx, schemas.DatabusRecords)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(5 * time.Minute); ; time.Sleep(10 * time.Millisecond) {
		committed, err := w.admin.FetchOffsets(ctx, applierGroup)
		behind := 0
		ends.Each(func(end kadm.ListedOffset) {
			if o, ok := committed.Lookup(end.Topic, end.Partition); end.Offset > 0 && (!ok || o.At < end.Offset) {
				behind++
			}
		})
		switch {
		case err == nil && behind == 0:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case time.Now().After(deadline):
			return fmt.Errorf("the applier does not get on: %w", errors.Join(err, w.process.Alive()))
		}
	}
}
