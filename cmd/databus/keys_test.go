package main

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"databus/pkg/identity"
	"databus/pkg/seal"
	"databus/pkg/seal/kmstest"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

func TestKeysAreRotatedAndShredded(t *testing.T) {
	s := readyStack(t, schemas.KeysEvents, schemas.IdentityObservations, schemas.DatabusDatabases)
	file := filepath.Join(t.TempDir(), "keys.json")
	s.run(t, "keys", "rotate", "acme", "--keys-file", file).fails(t, 1, "databus init --keys-file")
	if _, err := seal.Generate(file); err != nil {
		t.Fatal(err)
	}
	t.Setenv("DATABUS_KEYS__FILE", file)
	s.run(t, "keys", "rotate", "a/b").fails(t, 2, "is no account id")
	first := strings.Fields(s.ok(t, "keys", "rotate", "acme"))
	second := strings.Fields(s.ok(t, "keys", "rotate", "acme", "--per-record"))
	if out := s.ok(t, "keys", "ls", "acme"); strings.Count(out, "\n") != 3 || !strings.Contains(out, first[len(first)-1]+"  ROTATED  account") ||
		!strings.Contains(out, second[len(second)-1]+"  CREATED  records") {
		t.Error(out)
	}
	s.run(t, "keys", "shred", "acme").fails(t, 2, "--yes")
	s.run(t, "keys", "shred", "acme", "--yes", "--record", "r1").fails(t, 1, "record 1 of 1: record has no data key of its own", "--per-record")
	s.run(t, "keys", "shred", "nobody", "--yes").fails(t, 1, "data key is unknown")
	s.run(t, "keys", "shred", "acme", "--yes", "--person", "p").fails(t, 1, "names no database that serves")
	out := s.ok(t, "keys", "shred", "acme", "--yes", "--backups-kept", "720h")
	if !strings.Contains(out, "2 keys revoked, unreadable everywhere since") || !strings.Contains(out, "evidence withdrawn: 0 pieces") {
		t.Error(out)
	}
	if out := s.ok(t, "keys", "ls"); strings.Count(out, "REVOKED") != 2 || !strings.Contains(out, "account acme, shredding ") {
		t.Error(out)
	}
	s.run(t, "keys", "rotate", "acme").fails(t, 1, "data key is revoked")
}

// A person is all its records in the database that serves, whichever way the store is reached; nobody else's, and what the
// account's key sealed before records had their own is said to be left.
func TestOnePersonIsShredded(t *testing.T) {
	s := readyStack(t, schemas.KeysEvents, schemas.IdentityObservations, schemas.DatabusDatabases)
	file := filepath.Join(t.TempDir(), "keys.json")
	secrets, err := seal.Generate(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("DATABUS_KEYS__FILE", file)
	before := strings.Fields(s.ok(t, "keys", "rotate", "acme"))
	s.ok(t, "keys", "rotate", "acme", "--per-record")

	c := codec.New(codec.NewRegistry(s.Registry.URL()), codec.Options{})
	opts := target{brokers: s.Broker.Seeds()}.options()
	announce(t, opts, c, version("v1", event.DatabaseStateServing))
	address := "pebble://" + t.TempDir()
	stores, err := identity.OpenStores(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	store, err := stores.Keyspace("databus_v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Create(t.Context()); err != nil {
		t.Fatal(err)
	}
	ring, err := seal.OpenKeyring(t.Context(), seal.Options{Kafka: opts, Codec: c, Keys: secrets})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ring.Close)
	const anna, berta, clara = "00000000-0000-8000-8000-00000000000a", "00000000-0000-8000-8000-00000000000b", "00000000-0000-8000-8000-00000000000c"
	sealed := map[string][]*event.DatabusRecord{} // by person
	for id, person := range map[string]string{"r1": anna, "r2": anna, "r3": berta, "r4": clara} {
		recordKey := identity.RecordKey(secrets.AccountKey("acme"), id)
		key, err := ring.Sealer(t.Context(), "acme", recordKey)
		if err != nil {
			t.Fatal(err)
		}
		rec := &event.DatabusRecord{Account: "acme", RecordKey: recordKey, KeyID: key.ID(), PayloadSchema: []byte("12345678")}
		rec.Sealed = key.Seal(nil, recordKey, rec.PayloadSchema, []byte(id))
		sealed[person] = append(sealed[person], rec)
		row := identity.Row{Account: "acme", RecordKey: recordKey, Version: 1, FCID: strings.Repeat("f", 32), PersonID: person, KeyID: rec.KeyID, Sealed: rec.Sealed, PayloadSchema: rec.PayloadSchema}
		if err := store.Apply(t.Context(), []identity.Change{{New: row}}); err != nil {
			t.Fatal(err)
		}
	}
	opens := func(person string, want error) {
		t.Helper()
		if err := ring.CaughtUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, rec := range sealed[person] {
			if _, err := ring.Open(t.Context(), nil, rec); !errors.Is(err, want) {
				t.Errorf("a record of %s: %v, want %v", person, err, want)
			}
		}
	}

	s.run(t, "keys", "shred", "acme", "--yes", "--person", anna).fails(t, 1, "--identity-url")
	tools, stop, err := serveTools(stores) // as a running `databus dev` does
	if err != nil {
		t.Fatal(err)
	}
	if err := (devState{Brokers: s.Broker.Seeds(), Registry: s.Registry.URL(), Tools: tools}).write(s.dir); err != nil {
		t.Fatal(err)
	}
	s.run(t, "keys", "shred", "acme", "--yes", "--person", "00000000-0000-8000-8000-000000000000").fails(t, 1, "no record of such a person")
	out := s.ok(t, "keys", "shred", "acme", "--yes", "--person", anna, "--wait-databases", "0s")
	for _, want := range []string{"2 keys revoked", "not covered: versions of these records sealed with " + before[len(before)-1], "database v1 has not removed the rows yet"} {
		if !strings.Contains(out, want) {
			t.Errorf("it does not say %q:\n%s", want, out)
		}
	}
	opens(anna, seal.ErrRevoked)
	opens(berta, nil)

	stop()
	if err := stores.Close(); err != nil {
		t.Fatal(err)
	}
	if out := s.ok(t, "keys", "shred", "acme", "--yes", "--person", berta, "--identity-url", address, "--wait-databases", "0s"); !strings.Contains(out, "1 keys revoked") {
		t.Error(out)
	}
	opens(berta, seal.ErrRevoked)
	opens(clara, nil)
	if out := s.ok(t, "keys", "ls", "acme"); strings.Count(out, "not covered: ") != 2 {
		t.Errorf("the receipts forget what is left:\n%s", out)
	}
}

// A file of secrets is made wrapped, or becomes so, and the other commands read it.
func TestKeyFileIsWrapped(t *testing.T) {
	const arn = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
	server := kmstest.New(t, arn)
	s := readyStack(t, schemas.KeysEvents)
	file := filepath.Join(t.TempDir(), "keys.json")
	t.Setenv("DATABUS_KEYS__FILE", file)
	t.Setenv("DATABUS_KEYS__KMS_ENDPOINT", server.URL)
	plain, err := seal.Generate(file)
	if err != nil {
		t.Fatal(err)
	}
	s.run(t, "keys", "wrap").fails(t, 2, "--kms-uri")
	s.run(t, "keys", "wrap", "--kms-uri", "alias/x").fails(t, 2, "aws-kms://arn:aws:kms:")
	if out := s.ok(t, "keys", "wrap", "--kms-uri", "aws-kms://"+arn); !strings.Contains(out, "destroy all copies of the plain file") {
		t.Error(out)
	}
	s.run(t, "keys", "wrap", "--kms-uri", "aws-kms://"+arn).fails(t, 1, "wrapped by aws-kms://"+arn+" already")
	wrapped, err := seal.Load(t.Context(), file, seal.AWSKMS{Endpoint: server.URL})
	if err != nil || wrapped.AccountKey("acme") != plain.AccountKey("acme") || wrapped.Plain() {
		t.Errorf("other secrets, or plain ones: %v", err)
	}
	s.ok(t, "keys", "rotate", "acme")
	if out := s.ok(t, "keys", "ls", "acme"); !strings.Contains(out, "aws-kms://"+arn) {
		t.Errorf("the key that wrapped the file does not wrap data keys:\n%s", out)
	}
	made := initCmd{KeysFile: filepath.Join(t.TempDir(), "made.json"), KMSURI: "aws-kms://" + arn, KMSEndpoint: server.URL}
	if err := made.generate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if k, err := seal.Load(t.Context(), made.KeysFile, seal.AWSKMS{Endpoint: server.URL}); err != nil || k.Plain() {
		t.Errorf("init makes a plain file, or one that does not open: %v", err)
	}
	if err := made.generate(t.Context()); !errors.Is(err, fs.ErrExist) {
		t.Errorf("init makes it again: %v", err)
	}
}
