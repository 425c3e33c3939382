// Package setup prepares servers for Databus: topics, schemas, the first graph version and the first database version.
//
// Promise: what is there already stays as it is, so it may be run at any time and by several at once. Everything comes
// from the catalogue.
package setup

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/blob"
	"databus/pkg/graph"
	"databus/pkg/identity"
	"databus/pkg/topics"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

// The first database version: filled from the beginning of the Databus, under the graph that knows nothing.
const (
	FirstDatabase = "v1"
	FirstKeyspace = "databus_v1"
)

// ApplierGroup is the consumer group that fills a database version.
func ApplierGroup(version string) string { return "ingest.applier." + version }

// Target is what to prepare.
type Target struct {
	Kafka    []kgo.Opt
	Registry codec.Registry
	Bucket   blob.Bucket
	Stores   identity.Stores
	// Replication of new topics; 0 means the cluster's default.
	Replication int16
	Log         *slog.Logger
}

// Run prepares the target and returns what it changed, a line each.
func Run(ctx context.Context, t Target) ([]string, error) {
	var done []string
	client, err := kgo.NewClient(t.Kafka...)
	if err != nil {
		return nil, fmt.Errorf("making a client: %w", err)
	}
	defer client.Close()
	changes, err := topics.Apply(ctx, kadm.NewClient(client), schemas.WithDeadLetters(), topics.Options{ReplicationFactor: t.Replication})
	if err != nil {
		return nil, fmt.Errorf("applying topics: %w", err)
	}
	for _, c := range changes {
		done = append(done, c.Topic+": "+c.What)
	}
	if err := codec.RegisterCatalogue(ctx, t.Registry, nil); err != nil {
		return done, fmt.Errorf("registering schemas: %w", err)
	}
	c := codec.New(t.Registry, codec.Options{})
	if _, err := graph.PublishGenesis(ctx, graph.Sink{Kafka: t.Kafka, Codec: c, Bucket: t.Bucket, Log: t.Log}); err != nil {
		return done, fmt.Errorf("publishing the first graph: %w", err)
	}
	made, err := firstDatabase(ctx, t, client, c)
	if made {
		done = append(done, "database "+FirstDatabase+": serving")
	}
	return done, err
}

// firstDatabase makes the first database version unless there is any.
func firstDatabase(ctx context.Context, t Target, client *kgo.Client, c *codec.Codec) (bool, error) {
	databases, err := identity.FollowDatabases(ctx, t.Kafka, c, t.Log)
	if err != nil {
		return false, err
	}
	defer databases.Close()
	if err := databases.Ready(ctx); err != nil {
		return false, err
	}
	if len(databases.List()) > 0 {
		return false, nil
	}
	store, err := t.Stores.Keyspace(FirstKeyspace)
	if err != nil {
		return false, err
	}
	if err := store.Create(ctx); err != nil {
		return false, fmt.Errorf("creating keyspace %s: %w", FirstKeyspace, err)
	}
	value, err := codec.For[event.DatabaseVersion](c, schemas.DatabusDatabases).Encode(ctx, &event.DatabaseVersion{
		Version: FirstDatabase, Keyspace: FirstKeyspace, GraphVersion: graph.GenesisVersion, ApplierGroup: ApplierGroup(FirstDatabase),
		State: event.DatabaseStateServing, ChangedAt: time.Now(),
	})
	if err != nil {
		return false, err
	}
	rec := &kgo.Record{Topic: schemas.DatabusDatabases, Key: []byte(FirstDatabase), Value: value}
	if err := client.ProduceSync(ctx, rec).FirstErr(); err != nil {
		return false, fmt.Errorf("announcing database %s: %w", FirstDatabase, err)
	}
	return true, nil
}

// Await waits until a broker answers.
func Await(ctx context.Context, kafka []kgo.Opt) error {
	client, err := kgo.NewClient(kafka...)
	if err != nil {
		return fmt.Errorf("making a client: %w", err)
	}
	defer client.Close()
	for {
		try, cancel := context.WithTimeout(ctx, 2*time.Second)
		err := client.Ping(try)
		cancel()
		if err == nil || ctx.Err() != nil || errors.Is(err, kerr.SaslAuthenticationFailed) {
			return errors.Join(ctx.Err(), err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
}
