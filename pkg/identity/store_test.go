package identity_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"databus/pkg/blob"
	"databus/pkg/identity"
	"databus/pkg/identity/identitytest"
)

func testBucket() blob.Bucket { return blob.NewMemory() }

func TestStoreURLs(t *testing.T) {
	for _, url := range []string{"", "pebble://", "pebble://relative", "sqlite:///x", "cassandra://", "cassandra://a/b", "cassandra://user:secret@host",
		"cassandra://h?replication=x", "cassandra://h?replication=-1", "cassandra://h?replication=1&replication=2", "cassandra://h?x=1", "cassandra://h?consistency=MOST", "cassandra://h:port", "cassandra://h?timeout=soon"} {
		stores, err := identity.OpenStores(t.Context(), url)
		if err == nil {
			t.Errorf("%q was opened as %s", url, stores)
			continue
		}
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: the error repeats the password", url)
		}
	}
}

func TestPebbleKeepsRowsAndHasOneOwner(t *testing.T) {
	url := "pebble://" + t.TempDir()
	h := identitytest.NewHistory(t, 9, 100)
	applier := identity.Applier{Rows: h.Resolver, Graph: h.Graph}
	reference, err := identity.OpenStores(t.Context(), "mem://")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = reference.Close() })
	want := identitytest.Fresh(t, reference, "want")
	if _, err := applier.Apply(t.Context(), want, h.Inputs); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < 100; i += 20 { // closed and opened again between the batches
		stores, err := identity.OpenStores(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := identity.OpenStores(t.Context(), url); err == nil {
			t.Fatal("a directory was opened twice")
		}
		s, err := stores.Keyspace("live")
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			if err := s.Create(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := applier.Apply(t.Context(), s, h.Inputs[i:i+20]); err != nil {
			t.Fatal(err)
		}
		if i == 80 {
			c, err := identity.Compare(t.Context(), s, want)
			if err != nil || !c.Equal() || c.Rows < int64(len(h.Want)) {
				t.Errorf("%+v, %v", c, err)
			}
		}
		if err := stores.Close(); err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.Get(t.Context(), "a", strings.Repeat("0", 32)); err == nil {
			t.Error("a closed store answers")
		}
		if err := stores.Close(); err != nil {
			t.Error("closing twice:", err)
		}
	}
}

// Compare must see a difference in any column of any table, a missing row on either side, and name them without values.
func TestCompareSeesEveryColumn(t *testing.T) {
	stores, err := identity.OpenStores(t.Context(), "mem://")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stores.Close() })
	base := identity.Row{Account: "acme", RecordKey: strings.Repeat("ab", 16), FCID: strings.Repeat("cd", 16), PersonID: "00000000-0000-8000-8000-000000000001",
		Version: 7, KeyID: "acme/canary", PayloadSchema: []byte("12345678"), Sealed: []byte("canary"), Recent: identity.Recent{{At: 1}}}
	for name, c := range map[string]struct {
		change      func(*identity.Row)
		differences int64
		columns     string
	}{
		"equal":   {func(*identity.Row) {}, 0, ""},
		"version": {func(r *identity.Row) { r.Version = 8 }, 3, "version"},
		"key id":  {func(r *identity.Row) { r.KeyID = "acme/other" }, 3, "key_id"},
		"schema":  {func(r *identity.Row) { r.PayloadSchema = []byte("x") }, 3, "payload_schema"},
		"sealed":  {func(r *identity.Row) { r.Sealed = []byte("x") }, 3, "sealed"},
		"recent":  {func(r *identity.Row) { r.Recent = identity.Recent{{At: 2}} }, 1, "recent"},
		"FCID":    {func(r *identity.Row) { r.FCID = strings.Repeat("0", 32) }, 4, "fcid"},
		"person":  {func(r *identity.Row) { r.PersonID = "00000000-0000-8000-8000-000000000002" }, 4, "person_id"},
		"deleted": {func(r *identity.Row) {
			*r = identity.Row{Account: r.Account, RecordKey: r.RecordKey, Version: 7, Deleted: true}
		}, 3, "deleted"},
		"other key": {func(r *identity.Row) { r.RecordKey = strings.Repeat("ef", 16) }, 6, ""},
	} {
		a, b := identitytest.Fresh(t, stores, "a"), identitytest.Fresh(t, stores, "b")
		other := base
		c.change(&other)
		if err := errors.Join(a.Apply(t.Context(), []identity.Change{{New: base}}), b.Apply(t.Context(), []identity.Change{{New: other}})); err != nil {
			t.Fatal(err)
		}
		got, err := identity.Compare(t.Context(), a, b)
		if err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprint(got.Diffs)
		if got.Differences != c.differences || int64(len(got.Diffs)) != c.differences || !strings.Contains(text, c.columns) || strings.Contains(text, "canary") {
			t.Errorf("%s: %d differences: %s", name, got.Differences, text)
		}
		if got.Equal() != (name == "equal") || got.Rows < 3 {
			t.Errorf("%s: equal %v over %d rows", name, got.Equal(), got.Rows)
		}
	}
}
