package service

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"databus/pkg/seal"
)

// TestSharedParts opens what services share through two of them.
func TestSharedParts(t *testing.T) {
	s := startStack(t)
	s.applyTopics(t)
	c := DefaultConfig()
	c.Instance.ID, c.Kafka.Brokers = "one", s.broker.ListenAddrs()
	log := NewLogger(c.Log, &lockedBuffer{})
	bare, err := NewProcess(t.Context(), "test", c, ProcessOptions{Log: log})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bare.Env("ingest").Bucket(t.Context()); err == nil || !strings.Contains(err.Error(), "bucket.url is empty") {
		t.Error(err)
	}
	if _, err := bare.Env("ingest").Keyring(t.Context()); err == nil || !strings.Contains(err.Error(), "keys.file is empty") {
		t.Error(err)
	}
	if _, err := bare.Env("ingest").Stores(t.Context()); err == nil || !strings.Contains(err.Error(), "identity.url is empty") {
		t.Error(err)
	}
	bare.Config.Identity.URL = "cassandra://host?replicatoin=3"
	if _, err := bare.Env("ingest").Stores(t.Context()); err == nil || !strings.Contains(err.Error(), "replicatoin") {
		t.Errorf("a wrong URL is waited for: %v", err)
	}
	// A store that is away is waited for, and readiness says so.
	bare.Config.Identity.URL = "cassandra://" + freeAddr(t) + "?timeout=200ms"
	brief, stop := context.WithTimeout(t.Context(), time.Second)
	defer stop()
	if _, err := bare.Env("ingest").Stores(brief); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("an unreachable store: %v", err)
	}
	_, states := bare.Health.Ready()
	if !slices.ContainsFunc(states, func(s State) bool {
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
	p, err := NewProcess(t.Context(), "test", c, ProcessOptions{Log: log})
	if err != nil {
		t.Fatal(err)
	}
	one, two := p.Env("ingest"), p.Env("rebuilder")
	short, cancel := context.WithCancel(t.Context())
	a, err := one.Keyring(short)
	if err != nil {
		t.Fatal(err)
	}
	cancel() // the first service's constructor is over; the other goes on
	b, err := two.Keyring(t.Context())
	if err != nil || a != b {
		t.Errorf("two keyrings, %v", err)
	}
	bounded, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := b.Ready(bounded); err != nil {
		t.Error(err)
	}
	x, errX := one.Bucket(t.Context())
	y, errY := two.Bucket(t.Context())
	if errX != nil || errY != nil || x != y {
		t.Errorf("two buckets, %v, %v", errX, errY)
	}
	u, errU := one.Stores(t.Context())
	v, errV := two.Stores(t.Context())
	if errU != nil || errV != nil || u != v {
		t.Errorf("two identity stores, %v, %v", errU, errV)
	}
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
