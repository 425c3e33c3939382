package main

import (
	"path/filepath"
	"strings"
	"testing"

	"databus/pkg/seal"
	"databus/schemas"
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
