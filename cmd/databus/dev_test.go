package main

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/cmd/databus/internal/local"
	"databus/pkg/graph"
	"databus/pkg/identity"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

// A dev is a whole Databus in this process, as `databus dev` runs it; commands find it through dev.json.
type dev struct {
	*local.Stack
	dir       string
	unpublish func()
}

func startDev(t *testing.T, dir string) *dev {
	t.Helper()
	cfg, err := stackFlags{ArchiveIdle: "2s"}.config(&Globals{}, dir)
	if err != nil {
		t.Fatal(err)
	}
	log, closeLog, err := logFile(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = closeLog() })
	cfg.Log = log
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	stack, err := local.Start(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	d := &dev{Stack: stack, dir: dir}
	t.Cleanup(func() { d.stop(t) })
	if d.unpublish, err = publish(stack, dir); err != nil {
		t.Fatal(err)
	}
	if err := stack.Ready(ctx); err != nil {
		t.Fatalf("%v; see %s", err, filepath.Join(dir, "databus.log"))
	}
	return d
}

// stop ends everything, once.
func (d *dev) stop(t *testing.T) {
	t.Helper()
	if d.Stack == nil {
		return
	}
	if d.unpublish != nil {
		d.unpublish()
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	d.Stack = nil
}

func (d *dev) run(t *testing.T, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	return invoke(ctx, strings.NewReader(""), append([]string{"--dir", d.dir}, args...)...)
}

func (d *dev) ok(t *testing.T, args ...string) string {
	t.Helper()
	r := d.run(t, args...)
	if r.code != 0 {
		t.Fatalf("databus %s: exit code %d: %s%s", strings.Join(args, " "), r.code, r.out, r.err)
	}
	return r.out
}

// await runs a command until it succeeds.
func (d *dev) await(t *testing.T, what string, args ...string) string {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		r := d.run(t, args...)
		if r.code == 0 {
			return r.out
		}
		if time.Now().After(deadline) {
			t.Fatalf("waiting for %s: %s%s", what, r.out, r.err)
		}
	}
}

// contract agrees on a limit of person a month.
func (d *dev) contract(t *testing.T, account string, version int64, zone string, limit int64) {
	t.Helper()
	put(t, d.KafkaOpts(), d.Codec, schemas.UsageContracts, account, &event.Contract{
		Account: account, Version: version, TimeZone: zone, StartsAt: time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC),
		Packs: []event.ContractPack{
			{Pack: "person", Period: event.PeriodCalendarMonth, Limit: limit, Thresholds: []event.Threshold{{Kind: event.ThresholdKindPercent, Value: 80}}},
			{Pack: "*", Period: event.PeriodContractMonth, Limit: 10 * limit},
		},
	})
}

// standby makes a database version and announces it, as a rebuild and a catch-up would.
func (d *dev) standby(t *testing.T, version string) {
	t.Helper()
	v := event.DatabaseVersion{Version: version, Keyspace: "databus_" + version, GraphVersion: graph.GenesisVersion, ApplierGroup: "ingest.applier." + version,
		State: event.DatabaseStateStandby}
	store, err := d.Stores.Keyspace(v.Keyspace)
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Create(t.Context()); err != nil {
		t.Fatal(err)
	}
	announce(t, d.KafkaOpts(), d.Codec, v)
}

func announce(t *testing.T, kafka []kgo.Opt, c *codec.Codec, v event.DatabaseVersion) {
	t.Helper()
	cl, err := kgo.NewClient(kafka...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if err := identity.Announce(t.Context(), cl, c, v); err != nil {
		t.Fatal(err)
	}
}

// put produces one event and returns where it is.
func put[T any](t *testing.T, kafka []kgo.Opt, c *codec.Codec, topic, key string, v *T) *kgo.Record {
	t.Helper()
	value, err := codec.For[T](c, topic).Encode(t.Context(), v)
	if err != nil {
		t.Fatal(err)
	}
	return putBytes(t, kafka, topic, key, value)
}

func putBytes(t *testing.T, kafka []kgo.Opt, topic, key string, value []byte) *kgo.Record {
	t.Helper()
	cl, err := kgo.NewClient(kafka...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	rec, err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Key: []byte(key), Value: value}).First()
	if err != nil {
		t.Fatalf("producing to %s: %v", topic, err)
	}
	return rec
}
