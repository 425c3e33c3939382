// Package identitytest is the conformance suite of the identity store: what every implementation must do, and that an
// applier on it ends with the tables of a model, whatever crashes and whatever is applied again.
package identitytest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"databus/pkg/identity"
)

// Run runs the suite. open returns the same place each time (two handles, or one twice); prefix begins the names of the
// keyspaces that are created and dropped.
func Run(t *testing.T, prefix string, open func(testing.TB) identity.Stores) {
	t.Run("keyspaces", func(t *testing.T) { keyspaces(t, prefix, open(t)) })
	t.Run("rows", func(t *testing.T) { rows(t, Fresh(t, open(t), prefix+"_rows")) })
	t.Run("moves", func(t *testing.T) { moves(t, Fresh(t, open(t), prefix+"_moves")) })
	t.Run("versions", func(t *testing.T) { versions(t, Fresh(t, open(t), prefix+"_versions")) })
	t.Run("markers", func(t *testing.T) { markers(t, Fresh(t, open(t), prefix+"_markers")) })
	t.Run("shredding", func(t *testing.T) { shredding(t, open(t), prefix) })
	t.Run("revoked while writing", func(t *testing.T) { revokedWhileWriting(t, open(t), prefix) })
	t.Run("bad", func(t *testing.T) { bad(t, Fresh(t, open(t), prefix+"_bad")) })
	t.Run("applier", func(t *testing.T) { applier(t, open(t), prefix) })
}

// Fresh creates an empty keyspace that is dropped with the test.
func Fresh(t testing.TB, stores identity.Stores, name string) identity.Store {
	t.Helper()
	s, err := stores.Keyspace(name)
	if err != nil {
		t.Fatal(err)
	}
	must(t, s.Drop(t.Context()))
	must(t, s.Create(t.Context()))
	t.Cleanup(func() {
		if err := s.Drop(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// row makes the nth record's row as the person p at an offset.
func row(t testing.TB, account string, n, p int, offset int64) identity.Row {
	t.Helper()
	v, err := identity.Version(0, offset)
	must(t, err)
	return identity.Row{
		Account: account, RecordKey: fmt.Sprintf("%032x", n), FCID: fmt.Sprintf("%032x", p),
		PersonID: fmt.Sprintf("%08x-0000-8000-8000-%012x", len(account), p), Version: v, KeyID: account + "/00", PayloadSchema: []byte{0, 1, 2, 3, 0xff, 5, 6, 0},
		Sealed: []byte(fmt.Sprintf("\x00sealed %d %d %d\xff", n, p, offset)), Recent: identity.Recent{{ID: [16]byte{byte(n)}, At: offset}},
	}
}

func marker(t testing.TB, account string, n int, offset int64) identity.Row {
	t.Helper()
	r := row(t, account, n, 0, offset)
	return identity.Row{Account: r.Account, RecordKey: r.RecordKey, Deleted: true, Version: r.Version, Recent: r.Recent}
}

// bare is the row as the tables by person and by FCID have it.
func bare(r identity.Row) identity.Row {
	r.Recent = nil
	return r
}

func scan(t testing.TB, s identity.Store, table identity.Table) []identity.Row {
	t.Helper()
	var out []identity.Row
	must(t, s.Scan(t.Context(), table, func(r *identity.Row) error { out = append(out, *r); return nil }))
	sortRows(out)
	return out
}

func sortRows(rows []identity.Row) {
	slices.SortFunc(rows, func(a, b identity.Row) int {
		return strings.Compare(a.Account+"/"+a.RecordKey, b.Account+"/"+b.RecordKey)
	})
}

func equal(t testing.TB, what string, got, want any) {
	t.Helper()
	g, w := reflect.ValueOf(got), reflect.ValueOf(want)
	if g.Kind() == reflect.Slice && g.Len() == 0 && w.Len() == 0 {
		return
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%s:\n got %+v\nwant %+v", what, got, want)
	}
}

// holds checks all three tables against the rows by key.
func holds(t testing.TB, s identity.Store, what string, want ...identity.Row) {
	t.Helper()
	sortRows(want)
	var alive []identity.Row
	for _, r := range want {
		if !r.Deleted {
			alive = append(alive, bare(r))
		}
	}
	equal(t, what+", by key", scan(t, s, identity.ByKey), want)
	equal(t, what+", by person", scan(t, s, identity.ByPerson), alive)
	equal(t, what+", by FCID", scan(t, s, identity.ByFCID), alive)
}

func keyspaces(t *testing.T, prefix string, stores identity.Stores) {
	for _, name := range []string{"", "A", "a-b", "a b", "1a", "_a", strings.Repeat("a", 49), "a;drop", "a\x00"} {
		if _, err := stores.Keyspace(name); !errors.Is(err, identity.ErrKeyspaceName) {
			t.Errorf("keyspace %q: %v", name, err)
		}
	}
	s, err := stores.Keyspace(prefix + "_k")
	must(t, err)
	must(t, s.Drop(t.Context()))
	missing := func() {
		t.Helper()
		r := row(t, "a", 1, 1, 1)
		_, _, err1 := s.Get(t.Context(), r.Account, r.RecordKey)
		_, err2 := s.ByPerson(t.Context(), r.Account, r.PersonID, 1)
		err3 := s.Apply(t.Context(), []identity.Change{{New: r}})
		err4 := s.Scan(t.Context(), identity.ByFCID, func(*identity.Row) error { return nil })
		for i, err := range []error{err1, err2, err3, err4} {
			if !errors.Is(err, identity.ErrNoKeyspace) {
				t.Errorf("call %d on a keyspace that does not exist: %v", i, err)
			}
		}
	}
	missing()
	must(t, s.Create(t.Context()))
	must(t, s.Create(t.Context()))
	// The name of one begins the name of another.
	longer := Fresh(t, stores, prefix+"_k2")
	one, two := row(t, "a", 1, 1, 1), row(t, "a", 1, 2, 2)
	must(t, s.Apply(t.Context(), []identity.Change{{New: one}}))
	must(t, longer.Apply(t.Context(), []identity.Change{{New: two}}))
	holds(t, s, "first keyspace", one)
	holds(t, longer, "second keyspace", two)
	must(t, s.Drop(t.Context()))
	must(t, s.Drop(t.Context()))
	missing()
	holds(t, longer, "second keyspace after the first was dropped", two)
	must(t, s.Create(t.Context()))
	holds(t, s, "created again")
	must(t, s.Drop(t.Context()))
}

func rows(t *testing.T, s identity.Store) {
	var want []identity.Row
	var changes []identity.Change
	for n := range 40 {
		// Four persons; accounts of which one is the beginning of another; extreme bytes in keys.
		r := row(t, []string{"a", "a-", "a.b", "B"}[n%4], n*7, n%5, int64(n))
		if n%10 == 3 {
			r.RecordKey = strings.Repeat("f", 30) + r.RecordKey[30:]
		}
		if n == 39 {
			r = marker(t, "a", 1000, 39)
		}
		want = append(want, r)
		changes = append(changes, identity.Change{New: r})
	}
	must(t, s.Apply(t.Context(), changes))
	must(t, s.Apply(t.Context(), nil))
	holds(t, s, "all rows", slices.Clone(want)...)
	for _, r := range want {
		got, ok, err := s.Get(t.Context(), r.Account, r.RecordKey)
		must(t, err)
		equal(t, "by key", got, r)
		if !ok {
			t.Fatal("a row is there but not found")
		}
	}
	pick := func(f func(identity.Row) bool) []identity.Row {
		var out []identity.Row
		for _, r := range want {
			if !r.Deleted && f(r) {
				out = append(out, bare(r))
			}
		}
		slices.SortFunc(out, func(a, b identity.Row) int {
			if c := strings.Compare(a.Account, b.Account); c != 0 {
				return c
			}
			return strings.Compare(a.RecordKey, b.RecordKey)
		})
		return out
	}
	for _, r := range want {
		if r.Deleted {
			continue
		}
		byPerson := pick(func(x identity.Row) bool { return x.Account == r.Account && x.PersonID == r.PersonID })
		got, err := s.ByPerson(t.Context(), r.Account, r.PersonID, 100)
		must(t, err)
		equal(t, "by person", got, byPerson)
		byFCID := pick(func(x identity.Row) bool { return x.FCID == r.FCID })
		for _, limit := range []int{100, 3, 1, 0} {
			got, err = s.ByFCID(t.Context(), r.FCID, limit)
			must(t, err)
			equal(t, fmt.Sprint("by FCID, at most ", limit), got, byFCID[:min(limit, len(byFCID))])
		}
	}
	for _, id := range [][2]string{{"a", fmt.Sprintf("%032x", 5)}, {"nobody", want[0].RecordKey}, {"a", "not hex"}, {"", want[0].RecordKey}, {"a", ""}} {
		if _, ok, err := s.Get(t.Context(), id[0], id[1]); ok || err != nil {
			t.Errorf("%q: found %v, %v", id, ok, err)
		}
	}
	for _, id := range []string{"", "not a uuid", "00000000-0000-8000-8000-00000000ffff"} {
		if got, err := s.ByPerson(t.Context(), "a", id, 10); len(got) != 0 || err != nil {
			t.Errorf("person %q: %v, %v", id, got, err)
		}
		if got, err := s.ByFCID(t.Context(), id, 10); len(got) != 0 || err != nil {
			t.Errorf("FCID %q: %v, %v", id, got, err)
		}
	}
	stop := errors.New("stop")
	n := 0
	if err := s.Scan(t.Context(), identity.ByKey, func(*identity.Row) error { n++; return stop }); !errors.Is(err, stop) || n != 1 {
		t.Errorf("a scan that is stopped: %v after %d rows", err, n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Apply(ctx, changes); err == nil {
		t.Error("applied under a context that is done")
	}
	if _, _, err := s.Get(ctx, "a", want[0].RecordKey); err == nil {
		t.Error("read under a context that is done")
	}
}

// markers replace rows of their own version, and rows of that version never come back.
func markers(t *testing.T, s identity.Store) {
	apply := func(c ...identity.Change) { t.Helper(); must(t, s.Apply(t.Context(), c)) }
	other, one := row(t, "a", 2, 1, 5), row(t, "a", 1, 1, 5)
	apply(identity.Change{New: other}, identity.Change{New: one})
	shred := identity.Change{New: one.Marker(), Left: []identity.Place{one.Place()}}
	apply(shred)
	holds(t, s, "shredded", other, one.Marker())
	apply(shred)
	holds(t, s, "shredded again", other, one.Marker())
	apply(identity.Change{New: one})
	holds(t, s, "the row once more", other, one.Marker())
	two := row(t, "a", 1, 1, 6)
	apply(identity.Change{New: two})
	holds(t, s, "a later version", other, two)
	apply(shred)
	holds(t, s, "the earlier one shredded late", other, two)
	// Only what is left is removed, and not where a later version stands.
	apply(identity.Change{New: one.Marker(), Left: []identity.Place{one.Place()}, Remove: true})
	holds(t, s, "an earlier row removed where a later one stands", other, two)
	three := row(t, "a", 1, 3, 7)
	apply(identity.Change{New: three, Left: []identity.Place{two.Place()}})
	apply(identity.Change{New: three.Marker(), Left: []identity.Place{two.Place()}, Remove: true})
	holds(t, s, "nothing to remove", other, three)
}

func moves(t *testing.T, s identity.Store) {
	apply := func(c ...identity.Change) { t.Helper(); must(t, s.Apply(t.Context(), c)) }
	other := row(t, "a", 2, 1, 0)
	a1, b, a2 := row(t, "a", 1, 1, 1), row(t, "a", 1, 2, 2), row(t, "a", 1, 1, 3)
	apply(identity.Change{New: other}, identity.Change{New: a1})
	holds(t, s, "A", other, a1)
	apply(identity.Change{New: b, Left: []identity.Place{a1.Place()}})
	holds(t, s, "A to B", other, b)
	apply(identity.Change{New: a2, Left: []identity.Place{b.Place()}})
	holds(t, s, "A to B to A", other, a2)
	gone := marker(t, "a", 1, 4)
	apply(identity.Change{New: gone, Left: []identity.Place{a2.Place()}})
	holds(t, s, "deleted", other, gone)
	back := row(t, "a", 1, 1, 5)
	apply(identity.Change{New: back})
	holds(t, s, "set again", other, back)
	// Several changes of one record in a call; a place that is left and taken again.
	c, d := row(t, "a", 1, 3, 6), row(t, "a", 1, 1, 7)
	apply(identity.Change{New: c, Left: []identity.Place{back.Place()}}, identity.Change{New: d, Left: []identity.Place{c.Place(), d.Place(), {}}})
	holds(t, s, "two changes at once", other, d)
	// Only one half of the place changes.
	e := row(t, "a", 1, 1, 8)
	e.FCID = strings.Repeat("e", 32)
	apply(identity.Change{New: e, Left: []identity.Place{d.Place()}})
	holds(t, s, "another FCID, the same PersonID", other, e)
}

func versions(t *testing.T, s identity.Store) {
	now := row(t, "a", 1, 1, 10)
	change := identity.Change{New: now, Left: []identity.Place{{FCID: strings.Repeat("9", 32), PersonID: "00000001-0000-8000-8000-000000000009"}}}
	must(t, s.Apply(t.Context(), []identity.Change{change}))
	must(t, s.Apply(t.Context(), []identity.Change{change}))
	holds(t, s, "applied twice", now)
	older := row(t, "a", 1, 1, 9)
	older.Sealed = []byte("older than what is stored, and longer too: zzzzzzzzzzzzzzzzzzzzzzzzzzz")
	must(t, s.Apply(t.Context(), []identity.Change{{New: older}}))
	holds(t, s, "an older version of the same place", now)
	// The epoch is above every offset.
	v, err := identity.Version(1, 0)
	must(t, err)
	next := row(t, "a", 1, 1, 11)
	next.Version = v
	must(t, s.Apply(t.Context(), []identity.Change{{New: next}}))
	must(t, s.Apply(t.Context(), []identity.Change{{New: row(t, "a", 1, 1, 1<<40)}}))
	holds(t, s, "next epoch", next)
}

func bad(t *testing.T, s identity.Store) {
	good := row(t, "a", 1, 1, 1)
	for name, breakRow := range map[string]func(*identity.Row){
		"account":          func(r *identity.Row) { r.Account = "a/b" },
		"record key":       func(r *identity.Row) { r.RecordKey = strings.ToUpper(strings.Repeat("a", 32)) },
		"version":          func(r *identity.Row) { r.Version = 0 },
		"FCID":             func(r *identity.Row) { r.FCID = "" },
		"PersonID":         func(r *identity.Row) { r.PersonID = "x" },
		"payload":          func(r *identity.Row) { r.Sealed = nil },
		"deleted with key": func(r *identity.Row) { r.Deleted = true },
	} {
		r := good
		breakRow(&r)
		if err := s.Apply(t.Context(), []identity.Change{{New: r}}); !errors.Is(err, identity.ErrBadRow) {
			t.Errorf("%s: %v", name, err)
		}
	}
	holds(t, s, "after bad rows")
}
