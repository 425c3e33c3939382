package resource_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/resource"
	"databus/pkg/seal"
	"databus/pkg/service"
	"databus/pkg/topics"
	"databus/schemas"
)

// TestSharedParts opens what services share through two of them.
func TestSharedParts(t *testing.T) {
	broker, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Close)
	client, err := kgo.NewClient(kgo.SeedBrokers(broker.ListenAddrs()...))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := topics.Apply(t.Context(), kadm.NewClient(client), schemas.Catalogue(), topics.Options{ReplicationFactor: 1}); err != nil {
		t.Fatal(err)
	}
	c := service.DefaultConfig()
	c.Instance.ID, c.Kafka.Brokers = "one", broker.ListenAddrs()
	log := slog.New(slog.DiscardHandler)
	bare, err := service.NewProcess(t.Context(), "test", c, service.ProcessOptions{Log: log})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := resource.Bucket(t.Context(), bare.Env("ingest")); err == nil || !strings.Contains(err.Error(), "bucket.url is empty") {
		t.Error(err)
	}
	if _, err := resource.Keyring(t.Context(), bare.Env("ingest")); err == nil || !strings.Contains(err.Error(), "keys.file is empty") {
		t.Error(err)
	}
	if _, err := resource.Stores(t.Context(), bare.Env("ingest")); err == nil || !strings.Contains(err.Error(), "identity.url is empty") {
		t.Error(err)
	}
	bare.Config.Identity.URL = "cassandra://host?replicatoin=3"
	if _, err := resource.Stores(t.Context(), bare.Env("ingest")); err == nil || !strings.Contains(err.Error(), "replicatoin") {
		t.Errorf("a wrong URL is waited for: %v", err)
	}
	away, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = away.Close()
	// A store that is away is waited for, and readiness says so.
	bare.Config.Identity.URL = "cassandra://" + away.Addr().String() + "?timeout=200ms"
	brief, stop := context.WithTimeout(t.Context(), time.Second)
	defer stop()
	if _, err := resource.Stores(brief, bare.Env("ingest")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("an unreachable store: %v", err)
	}
	_, states := bare.Health.Ready()
	if !slices.ContainsFunc(states, func(s service.State) bool {
		return s.Name == "identity store" && !s.Ready && strings.HasPrefix(s.Reason, "unreachable")
	}) {
		t.Errorf("%+v", states)
	}
	if err := bare.Close(t.Context()); err != nil {
		t.Error(err)
	}

	c.Keys.File, c.Bucket.URL = t.TempDir()+"/keys.json", "mem://"
	c.Identity.URL = "pebble://" + t.TempDir()
	if _, err := seal.Generate(c.Keys.File); err != nil {
		t.Fatal(err)
	}
	p, err := service.NewProcess(t.Context(), "test", c, service.ProcessOptions{Log: log})
	if err != nil {
		t.Fatal(err)
	}
	one, two := p.Env("ingest"), p.Env("rebuilder")
	short, cancel := context.WithCancel(t.Context())
	a, err := resource.Keyring(short, one)
	if err != nil {
		t.Fatal(err)
	}
	cancel() // the first service's constructor is over; the other goes on
	b, err := resource.Keyring(t.Context(), two)
	if err != nil || a != b {
		t.Errorf("two keyrings, %v", err)
	}
	bounded, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := b.Ready(bounded); err != nil {
		t.Error(err)
	}
	x, errX := resource.Bucket(t.Context(), one)
	y, errY := resource.Bucket(t.Context(), two)
	if errX != nil || errY != nil || x != y {
		t.Errorf("two buckets, %v, %v", errX, errY)
	}
	u, errU := resource.Stores(t.Context(), one)
	v, errV := resource.Stores(t.Context(), two)
	if errU != nil || errV != nil || u != v {
		t.Errorf("two identity stores, %v, %v", errU, errV)
	}
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
