package ingest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

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
	"databus/test/ingest/verify"
	"databus/test/process"
	"databus/test/stack"
)

// The database that serves.
const (
	database     = "v1"
	applierGroup = "ingest.applier." + database
)

// world is where a proof takes place: brokers with the catalogue's topics, a registry, a store, keys, and the programs.
type world struct {
	t                         testing.TB
	brokers                   []string
	registry                  string
	identity, keyspace        string
	shared                    bool // whether instances can share the store, so that all of them apply
	bin, dir, bucket, keyFile string
	rows                      func(ctx context.Context, table string, each func(verify.Row) error) error

	opts      []kgo.Opt
	client    *kgo.Client
	admin     *kadm.Client
	codec     *codec.Codec
	keys      *seal.Keys
	instances []*instance
}

// binaries are built once for all tests of the process.
var binaries process.Binaries

// programs returns the directory of the programs.
func programs(t testing.TB) string {
	t.Helper()
	dir, err := binaries.Build("databus/services/ingest/cmd/ingest", "databus/test/ingest/cmd/instance")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// onEmbedded is a world on the embedded broker, in a process of its own that is never killed, and the embedded store.
func onEmbedded(t testing.TB) *world {
	t.Helper()
	broker, registry := stack.Start(t, &binaries)
	w := &world{t: t, brokers: []string{broker}, registry: registry, keyspace: "proof", bin: programs(t), dir: t.ArtifactDir()}
	w.identity = "pebble://" + filepath.Join(w.dir, "identity")
	w.rows = w.embeddedRows
	w.prepare()
	return w
}

// prepare does what `databus init` does.
func (w *world) prepare() {
	w.t.Helper()
	ctx := w.t.Context()
	must := func(err error) {
		w.t.Helper()
		if err != nil {
			w.t.Fatal(err)
		}
	}
	w.bucket, w.keyFile = filepath.Join(w.dir, "bucket"), filepath.Join(w.dir, "keys.json")
	must(os.MkdirAll(w.bucket, 0o755))
	var err error
	w.keys, err = seal.Generate(w.keyFile)
	must(err)
	w.opts = []kgo.Opt{kgo.SeedBrokers(w.brokers...), kgo.MetadataMinAge(100 * time.Millisecond), kgo.FetchMaxWait(200 * time.Millisecond),
		kgo.RecordPartitioner(service.Partitioner()), kgo.ProducerLinger(2 * time.Millisecond)}
	w.client, err = kgo.NewClient(w.opts...)
	must(err)
	w.t.Cleanup(w.client.Close)
	w.admin = kadm.NewClient(w.client)
	_, err = topics.Apply(ctx, w.admin, schemas.WithDeadLetters(), topics.Options{})
	must(err)
	w.codec = codec.New(codec.NewRegistry(w.registry), codec.Options{RegisterSchemas: true})
	bucket, err := blob.Open(ctx, "file://"+w.bucket)
	must(err)
	_, err = graph.PublishGenesis(ctx, graph.Sink{Kafka: w.opts, Codec: w.codec, Bucket: bucket})
	must(err)
	stores, err := identity.OpenStores(ctx, w.identity)
	must(err)
	store, err := stores.Keyspace(w.keyspace)
	must(err)
	must(store.Create(ctx))
	must(stores.Close())
	must(identity.Announce(ctx, w.client, w.codec, event.DatabaseVersion{Version: database, Keyspace: w.keyspace, GraphVersion: graph.GenesisVersion,
		ApplierGroup: applierGroup, State: event.DatabaseStateServing}))
}

// embeddedRows reads the embedded store's files, which no process may have open.
func (w *world) embeddedRows(ctx context.Context, table string, each func(verify.Row) error) error {
	stores, err := identity.OpenStores(ctx, w.identity)
	if err != nil {
		return err
	}
	defer func() { _ = stores.Close() }()
	store, err := stores.Keyspace(w.keyspace)
	if err != nil {
		return err
	}
	for _, t := range identity.Tables() {
		if t.Name != table {
			continue
		}
		return store.Scan(ctx, t, func(r *identity.Row) error {
			row := verify.Row{Account: r.Account, RecordKey: r.RecordKey, FCID: r.FCID, PersonID: r.PersonID, Deleted: r.Deleted, Version: r.Version,
				KeyID: r.KeyID, PayloadSchema: r.PayloadSchema, Sealed: r.Sealed}
			for _, c := range t.Columns {
				if c.Name == "recent" {
					row.Recent = c.Value(r)
				}
			}
			return each(row)
		})
	}
	return fmt.Errorf("there is no table %s", table)
}

// patience bounds every wait for the services.
const patience = 3 * time.Minute

// caughtUp waits until every group of ingest has committed its topic's end.
func (w *world) caughtUp(ctx context.Context) error {
	for group, topic := range map[string]string{"ingest": schemas.IdentityRequests, "ingest.evidence": schemas.DatabusRecords, applierGroup: schemas.DatabusRecords} {
		for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
			ends, err1 := w.admin.ListEndOffsets(ctx, topic)
			committed, err2 := w.admin.FetchOffsets(ctx, group)
			behind := 0
			ends.Each(func(end kadm.ListedOffset) {
				if o, ok := committed.Lookup(end.Topic, end.Partition); end.Offset > 0 && (!ok || o.At < end.Offset) {
					behind++
				}
			})
			if err1 == nil && err2 == nil && behind == 0 {
				break
			}
			if ctx.Err() != nil || time.Now().After(deadline) {
				return fmt.Errorf("group %s does not get on: %d partitions of %s are behind: %w", group, behind, topic, errors.Join(err1, err2, ctx.Err()))
			}
		}
	}
	return nil
}

// verify waits for the services, stops them and compares everything.
func (w *world) verify(l *load) *verify.Report {
	w.t.Helper()
	ctx := w.t.Context()
	// The request loop first: what it writes the others read.
	for range 2 {
		if err := w.caughtUp(ctx); err != nil {
			w.t.Fatalf("%v%s", err, w.tails())
		}
	}
	l.lookUp()
	for _, i := range w.instances {
		if err := i.Stop(); err != nil {
			w.t.Error(err)
		}
	}
	r, err := verify.Verify(ctx, verify.Options{Kafka: w.opts, Registry: w.registry, KeyFile: w.keyFile, Sent: l.sent, Acks: l.acks, Rows: w.rows})
	if err != nil {
		w.t.Fatal(err)
	}
	figures.add(r)
	w.t.Log(r)
	if err := r.Err(); err != nil {
		w.t.Error(err)
	}
	return r
}

func (w *world) tails() string {
	var b strings.Builder
	for _, i := range w.instances {
		fmt.Fprintf(&b, "\n%s:\n%s", i.Name, i.Tail())
	}
	return b.String()
}
