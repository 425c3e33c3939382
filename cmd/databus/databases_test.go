package main

import (
	"strings"
	"testing"
	"time"

	"github.com/posener/complete"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/identity"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

func version(name string, state event.DatabaseState) event.DatabaseVersion {
	return event.DatabaseVersion{Version: name, Keyspace: "databus_" + name, GraphVersion: "g1", ApplierGroup: "ingest.applier." + name, State: state}
}

// states are the versions of databus.databases with their states; the one that serves has a star.
func (s *stack) states(t *testing.T) string {
	t.Helper()
	var all []string
	for _, line := range strings.Split(strings.TrimSpace(s.ok(t, "databases", "list")), "\n")[1:] {
		f := strings.Fields(line)
		if f[2] == "yes" {
			f[1] += "*"
		}
		all = append(all, f[0]+" "+f[1])
	}
	return strings.Join(all, ", ")
}

func TestDatabasesServe(t *testing.T) {
	s := readyStack(t, schemas.DatabusDatabases, schemas.DatabusRecords)
	c := codec.New(codec.NewRegistry(s.Registry.URL()), codec.Options{})
	opts := target{brokers: s.Broker.Seeds()}.options()
	s.run(t, "databases", "serve", "v2").fails(t, 1, "no database version v2: there are none")
	announce(t, opts, c, version("v1", event.DatabaseStateServing))
	announce(t, opts, c, version("v2", event.DatabaseStateLoaded))
	s.run(t, "databases", "serve", "v2").fails(t, 1, "its state is LOADED and must be STANDBY", "catch-up")
	announce(t, opts, c, version("v2", event.DatabaseStateStandby))

	// A transaction leaves a marker behind its records: an applier that has them all commits in front of it.
	tx := s.client(t, kgo.TransactionalID("records"))
	write := func(end kgo.TransactionEndTry) *kgo.Record {
		t.Helper()
		if err := tx.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		rec, err := tx.ProduceSync(t.Context(), &kgo.Record{Topic: schemas.DatabusRecords, Key: []byte("acme/r"), Value: []byte("x")}).First()
		if err != nil {
			t.Fatal(err)
		}
		if err := tx.EndTransaction(t.Context(), end); err != nil {
			t.Fatal(err)
		}
		return rec
	}
	commit := func(group string, rec *kgo.Record, at int64) {
		t.Helper()
		offsets := kadm.Offsets{}
		offsets.Add(kadm.Offset{Topic: rec.Topic, Partition: rec.Partition, At: at, LeaderEpoch: -1})
		if err := kadm.NewClient(s.client(t)).CommitAllOffsets(t.Context(), group, offsets); err != nil {
			t.Fatal(err)
		}
	}
	rec := write(kgo.TryCommit)
	s.run(t, "databases", "serve", "v2").fails(t, 1, "ingest.applier.v2 is behind the end at the trigger in partition", "(1 records, from offset 0)")
	if got := s.states(t); got != "v1 SERVING*, v2 STANDBY" {
		t.Errorf("after refusals: %s", got)
	}
	commit("ingest.applier.v2", rec, rec.Offset+1)
	if out := s.ok(t, "databases", "serve", "v2"); out != "version v2 serves; before: v1, now on standby\n" {
		t.Error(out)
	}
	if got := s.states(t); got != "v2 SERVING*, v1 STANDBY" {
		t.Errorf("after the cut-over: %s", got)
	}
	if out := s.ok(t, "databases", "serve", "v2"); out != "version v2 serves already\n" {
		t.Error(out)
	}
	// Back: the old version must have everything, too. An aborted transaction is nothing to apply.
	s.run(t, "databases", "serve", "v1").fails(t, 1, "ingest.applier.v1 is behind")
	commit("ingest.applier.v1", rec, rec.Offset+1)
	write(kgo.TryAbort)
	s.ok(t, "databases", "serve", "v1")
	// What an open transaction has written counts: it may be committed.
	if err := tx.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := tx.ProduceSync(t.Context(), &kgo.Record{Topic: schemas.DatabusRecords, Key: []byte("acme/r"), Value: []byte("x")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	s.run(t, "databases", "serve", "v2").fails(t, 1, "an open transaction hides")
	if err := tx.EndTransaction(t.Context(), kgo.TryAbort); err != nil {
		t.Fatal(err)
	}
	// A cut-over that died between its two events: the later claim serves, and the command completes it.
	announce(t, opts, c, version("v2", event.DatabaseStateServing))
	if got := s.states(t); !strings.Contains(got, "v1 SERVING,") || !strings.Contains(got, "v2 SERVING*") {
		t.Errorf("interrupted: %s", got)
	}
	s.ok(t, "databases", "serve", "v2")
	if got := s.states(t); got != "v2 SERVING*, v1 STANDBY" {
		t.Errorf("completed: %s", got)
	}
	s.run(t, "databases", "serve", "v3").fails(t, 1, "no database version v3: there are ")
	t.Setenv("DATABUS_DIR", s.dir)
	if got := predictDatabase(complete.Args{}); len(got) != 2 {
		t.Errorf("completed to %v", got)
	}
}

func TestDatabasesDiff(t *testing.T) {
	s := readyStack(t, schemas.DatabusDatabases, schemas.DatabusRecords)
	c := codec.New(codec.NewRegistry(s.Registry.URL()), codec.Options{})
	opts := target{brokers: s.Broker.Seeds()}.options()
	for _, v := range []string{"v1", "v2"} {
		announce(t, opts, c, version(v, event.DatabaseStateStandby))
	}
	address := "pebble://" + t.TempDir()
	write := func(keyspace, record, person string) {
		t.Helper()
		stores, err := identity.OpenStores(t.Context(), address)
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := stores.Close(); err != nil {
				t.Error(err)
			}
		}()
		store, err := stores.Keyspace(keyspace)
		if err != nil {
			t.Fatal(err)
		}
		if err := store.Create(t.Context()); err != nil {
			t.Fatal(err)
		}
		row := identity.Row{Account: "acme", RecordKey: strings.Repeat(record, 32), Version: 1, FCID: strings.Repeat("f", 32), PersonID: person, KeyID: "k", Sealed: []byte("s"), PayloadSchema: []byte("p")}
		if err := store.Apply(t.Context(), []identity.Change{{New: row}}); err != nil {
			t.Fatal(err)
		}
	}
	s.run(t, "databases", "diff", "v1", "v2").fails(t, 1, "--identity-url")
	write("databus_v1", "a", "00000000-0000-8000-8000-000000000001")
	write("databus_v2", "a", "00000000-0000-8000-8000-000000000001")
	if out := s.ok(t, "databases", "diff", "v1", "v2", "--identity-url", address); out != "v1 and v2: 3 rows, 0 differences\n" {
		t.Error(out)
	}
	write("databus_v2", "b", "00000000-0000-8000-8000-000000000002")
	r := s.run(t, "databases", "diff", "v1", "v2", "--identity-url", address)
	r.fails(t, 1, "3 of 6 rows differ")
	if strings.Count(r.out, "only in the second") != 3 || strings.Contains(r.out, strings.Repeat("b", 32)) {
		t.Errorf("%s", r.out)
	}
	// A running `databus dev` holds the store and compares itself.
	stores, err := identity.OpenStores(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	tools, stop, err := serveTools(stores)
	if err != nil {
		t.Fatal(err)
	}
	if err := (devState{Brokers: s.Broker.Seeds(), Registry: s.Registry.URL(), Tools: tools}).write(s.dir); err != nil {
		t.Fatal(err)
	}
	if asked := s.run(t, "databases", "diff", "v1", "v2"); asked != r {
		t.Errorf("asked: %+v, opened: %+v", asked, r)
	}
	announce(t, opts, c, event.DatabaseVersion{Version: "v3", Keyspace: "no keyspace", State: event.DatabaseStateLoaded})
	s.run(t, "databases", "diff", "v1", "v3").fails(t, 1, "keyspace name is not valid")
	stop()
	if err := stores.Close(); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	s.run(t, "databases", "diff", "v1", "v2").fails(t, 1, "asking `databus dev` to compare")
	if time.Since(begin) > 20*time.Second {
		t.Error("it took too long to notice that nobody answers")
	}
}
