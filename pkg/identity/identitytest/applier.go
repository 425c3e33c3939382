package identitytest

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"databus/pkg/graph"
	"databus/pkg/identity"
	"databus/pkg/internal/kafkatest"
	"databus/pkg/seal"
	"databus/schemas"
	"databus/schemas/event"
)

// History is a partition of databus.records as a test makes it up: upserts that move records between persons and back,
// deletes, repeats of requests, records that cannot be opened.
type History struct {
	Resolver *identity.Resolver
	// Keyring is the resolver's; account-1 has keys for its records.
	Keyring *seal.Keyring
	Graph   *graph.Graph
	Inputs  []identity.Input
	// Want is the final row of each record, from a model that folds the inputs one by one.
	Want []identity.Row
}

const accounts, records, persons = 2, 6, 4

// NewHistory makes n versions. Those with equal seeds have equal inputs, the seal aside.
func NewHistory(t testing.TB, seed uint64, n int) *History { return newHistory(t, seed, n, true) }

// NewSoundHistory is NewHistory without versions that were changed on their way. One that does not open counts for nothing,
// and one that was shredded like any other: nobody can say which of them a changed version is once its key is gone.
func NewSoundHistory(t testing.TB, seed uint64, n int) *History { return newHistory(t, seed, n, false) }

func newHistory(t testing.TB, seed uint64, n int, changed bool) *History {
	t.Helper()
	bed := kafkatest.New(t, schemas.KeysEvents)
	keys, err := seal.Generate(filepath.Join(t.TempDir(), "keys.json"))
	must(t, err)
	ring, err := seal.OpenKeyring(t.Context(), seal.Options{Kafka: bed.Opts, Codec: bed.Codec, Keys: keys})
	must(t, err)
	t.Cleanup(ring.Close)
	h := &History{Keyring: ring}
	_, err = ring.Rotate(t.Context(), "account-1", seal.RecordScope)
	must(t, err)
	h.Resolver, err = identity.NewResolver(keys, ring, "AU")
	must(t, err)

	r := rand.New(rand.NewPCG(seed, 1))
	now := time.UnixMilli(1_800_000_000_000)
	offset := int64(r.IntN(1000))
	var requests []string
	for i := range n {
		q := identity.Request{Account: fmt.Sprint("account-", r.IntN(accounts)), RequestID: fmt.Sprint("request-", i), Kind: event.RequestKindUpsert}
		q.Record.RecordID = fmt.Sprint("record-", r.IntN(records))
		if len(requests) > 0 && r.IntN(5) == 0 { // an id that was used before, for this record or another
			q.RequestID = requests[max(0, len(requests)-1-r.IntN(60))]
		}
		requests = append(requests, q.RequestID)
		if r.IntN(8) == 0 {
			q.Kind = event.RequestKindDelete
		} else if p := r.IntN(persons + 1); p < persons { // otherwise it identifies nobody
			q.Record.Fields = map[string]string{"phone": fmt.Sprintf("+6141234560%d", p), "note": fmt.Sprint("version ", i)}
			if r.IntN(2) == 0 {
				q.Record.Fields["email"] = fmt.Sprintf("person-%d@example.org", p)
			}
		}
		res, err := h.Resolver.Resolve(t.Context(), graph.Genesis(), &q)
		must(t, err)
		rec := res.Record
		switch {
		case rec.Kind == event.RecordKindUpsert && r.IntN(25) == 0 && changed:
			rec.Sealed = bytes.Clone(rec.Sealed)
			rec.Sealed[r.IntN(len(rec.Sealed))] ^= 1
		case r.IntN(60) == 0:
			rec.RecordKey = "not a record key"
		}
		h.Inputs = append(h.Inputs, identity.Input{Record: &rec, Offset: offset, AppendTime: now})
		offset += int64(1 + r.IntN(3)) // control records leave holes
		switch r.IntN(40) {
		case 0:
			now = now.Add(time.Duration(r.IntN(30)) * time.Hour)
		case 1:
			now = now.Add(-time.Second) // another broker's clock
		default:
			now = now.Add(time.Duration(r.IntN(2)) * time.Millisecond)
		}
	}
	// The graph knows that a phone and a mail address belong together, for some persons.
	var evidence []graph.Evidence
	for i := range h.Inputs[:n/3] {
		if o, err := h.Resolver.Observation(t.Context(), &h.Inputs[i], h.Inputs[i].AppendTime); err == nil {
			e, err := graph.FromObservation(o)
			must(t, err)
			evidence = append(evidence, e)
		}
	}
	h.Graph = graph.Build(slices.Values(evidence)).Graph
	h.Remodel(t)
	return h
}

// Shred shreds account-0 and some records of account-1, and makes Want what it is then.
func (h *History) Shred(t testing.TB) {
	t.Helper()
	_, err := h.Keyring.Shred(t.Context(), seal.Shred{Account: "account-0"})
	must(t, err)
	var keys []string
	for _, i := range h.Keyring.List() {
		if i.RecordKey != "" {
			keys = append(keys, i.RecordKey)
		}
	}
	slices.Sort(keys)
	keys = slices.Compact(keys)
	// Half of them, and never none: record keys are random, as the pepper is.
	_, err = h.Keyring.Shred(t.Context(), seal.Shred{Account: "account-1", RecordKeys: keys[:(len(keys)+1)/2]})
	must(t, err)
	h.Remodel(t)
}

// Remodel makes Want what it is with the keys as they are now. It is the rule in its simplest form: one version after the other, all ids ever accepted, no store.
func (h *History) Remodel(t testing.TB) {
	type accepted struct {
		id string
		at time.Time
	}
	final := map[string]identity.Row{}
	ids := map[string][]accepted{}
	for i := range h.Inputs {
		in := &h.Inputs[i]
		row, err := h.Resolver.Row(t.Context(), h.Graph, in)
		if err != nil {
			if !identity.IsDead(err) {
				t.Fatal(err)
			}
			continue
		}
		row.Shredded = false // a deleted row like others
		key := row.Account + "/" + row.RecordKey
		// The last 16 of those within the window, counted as they were accepted.
		window := slices.DeleteFunc(slices.Clone(ids[key]), func(a accepted) bool { return in.AppendTime.Sub(a.at) > identity.RecentWindow })
		if slices.ContainsFunc(window, func(a accepted) bool { return a.id == in.Record.RequestID }) {
			continue
		}
		window = append(window, accepted{in.Record.RequestID, in.AppendTime})
		ids[key] = window[max(0, len(window)-identity.RecentVersions):]
		for _, a := range ids[key] {
			row.Recent, _ = row.Recent.Accept(a.id, a.at)
		}
		final[key] = row
	}
	h.Want = nil
	for _, row := range final {
		h.Want = append(h.Want, row)
	}
}

// applier folds histories in random batches, from random earlier offsets again, interrupted at random, and expects the
// model's tables, and in every column those of the embedded store after one batch without interruption.
func applier(t *testing.T, stores identity.Stores, prefix string) {
	reference, err := identity.OpenStores(t.Context(), "mem://")
	must(t, err)
	t.Cleanup(func() { must(t, reference.Close()) })
	for seed := range uint64(3) {
		h := NewHistory(t, seed, 600)
		a := identity.Applier{Rows: h.Resolver, Graph: h.Graph}
		r := rand.New(rand.NewPCG(seed, 2))

		straight := Fresh(t, reference, fmt.Sprint("straight", seed))
		results, err := a.Apply(t.Context(), straight, h.Inputs)
		must(t, err)
		holds(t, straight, "in one batch", slices.Clone(h.Want)...)
		var counts [5]int
		for _, res := range results {
			counts[res.Outcome]++
		}
		if counts[identity.Applied] == 0 || counts[identity.Repeat] == 0 || counts[identity.Dead] == 0 || counts[identity.Superseded] != 0 {
			t.Errorf("outcomes %v", counts)
		}
		again, err := a.Apply(t.Context(), straight, h.Inputs)
		must(t, err)
		for i, res := range again {
			if res.Outcome == identity.Applied {
				t.Fatalf("offset %d was applied a second time (%v before)", h.Inputs[i].Offset, results[i].Outcome)
			}
		}
		holds(t, straight, "applied again as a whole", slices.Clone(h.Want)...)

		crashing := Fresh(t, stores, fmt.Sprint(prefix, "_crashing", seed))
		interrupted, rewound := 0, 0
		for next := 0; next < len(h.Inputs); {
			batch := h.Inputs[next:min(next+1+r.IntN(40), len(h.Inputs))]
			ctx, cancel := t.Context(), context.CancelFunc(func() {})
			if r.IntN(3) == 0 {
				ctx, cancel = context.WithTimeout(ctx, time.Duration(r.IntN(8000))*time.Microsecond)
			}
			_, err := a.Apply(ctx, crashing, batch)
			cancel()
			switch {
			case err != nil && ctx.Err() == nil:
				t.Fatal(err)
			case err != nil:
				interrupted++ // offsets are not committed: the next attempt has another batch size
			default:
				next += len(batch)
			}
			if r.IntN(20) == 0 && next < len(h.Inputs) {
				next = max(0, next-r.IntN(200))
				rewound++
			}
		}
		t.Logf("seed %d: outcomes %v, %d interruptions, %d times from an earlier offset", seed, counts, interrupted, rewound)
		holds(t, crashing, "in batches, with interruptions", slices.Clone(h.Want)...)
		c, err := identity.Compare(t.Context(), straight, crashing)
		must(t, err)
		if !c.Equal() || c.Rows < int64(len(h.Want)) {
			t.Errorf("compared %d rows: %v", c.Rows, c.Diffs)
		}
	}
}

// shredding revokes keys in the middle of a history that is applied in batches, sweeps, and expects the tables of those who
// knew from the beginning that the keys would be revoked.
func shredding(t *testing.T, stores identity.Stores, prefix string) {
	shredded := 0
	for seed := range uint64(4) {
		h := NewSoundHistory(t, seed, 300)
		a := identity.Applier{Rows: h.Resolver, Graph: h.Graph}
		r := rand.New(rand.NewPCG(seed, 3))
		live := Fresh(t, stores, fmt.Sprint(prefix, "_live", seed))
		at := 50 + r.IntN(200)
		apply := func(next, end int) {
			for next < end {
				batch := h.Inputs[next:min(next+1+r.IntN(40), end)]
				results, err := a.Apply(t.Context(), live, batch)
				must(t, err)
				for _, res := range results {
					if res.Outcome == identity.Shredded {
						shredded++
					}
				}
				next += len(batch)
			}
		}
		apply(0, at)
		h.Shred(t)
		pending, positions, whole := h.Keyring.Unswept("live")
		if len(pending) < 2 || !whole {
			t.Fatalf("%d revocations to carry out, %v", len(pending), whole)
		}
		if seed%2 == 0 { // the sweep comes before what is left, or behind it
			apply(at, len(h.Inputs))
		}
		n, err := identity.Sweep(t.Context(), live, h.Resolver, pending)
		must(t, err)
		must(t, h.Keyring.Swept(t.Context(), "live", positions))
		shredded += int(n)
		if seed%2 == 1 {
			apply(at, len(h.Inputs))
		}
		holds(t, live, "shredded in the middle", slices.Clone(h.Want)...)

		later := Fresh(t, stores, fmt.Sprint(prefix, "_later", seed))
		_, err = a.Apply(t.Context(), later, h.Inputs)
		must(t, err)
		c, err := identity.Compare(t.Context(), live, later)
		must(t, err)
		if !c.Equal() {
			t.Errorf("seed %d: %v", seed, c.Diffs)
		}
		again, err := identity.Sweep(t.Context(), live, h.Resolver, pending)
		must(t, err)
		if again != 0 {
			t.Errorf("a second sweep shreds %d records", again)
		}
		// From an earlier offset again, as after a crash: what was shredded stays so.
		_, err = a.Apply(t.Context(), live, h.Inputs[at/2:])
		must(t, err)
		holds(t, live, "applied again", slices.Clone(h.Want)...)
	}
	if shredded < 20 {
		t.Errorf("only %d records were shredded: the test does not test", shredded)
	}
}

// late is a Rower of which a key is revoked between the making of a row and its writing.
type late struct {
	identity.Rower
	revoked bool
}

func (l *late) Revoked(context.Context, string) (bool, error) { return l.revoked, nil }

// whileWriting is a store that does something in the middle of a write.
type whileWriting struct {
	identity.Store
	do func()
}

func (w *whileWriting) Apply(ctx context.Context, changes []identity.Change) error {
	if w.do != nil {
		w.do()
	}
	return w.Store.Apply(ctx, changes)
}

// A key is revoked while rows are written, and the sweep has been by already: the applier sees to it itself, also where it
// crashed in between.
func revokedWhileWriting(t *testing.T, stores identity.Stores, prefix string) {
	h := NewSoundHistory(t, 9, 60)
	for _, crash := range []bool{false, true} {
		rows := &late{Rower: h.Resolver}
		a := identity.Applier{Rows: rows, Graph: h.Graph}
		store := Fresh(t, stores, fmt.Sprint(prefix, "_while_", crash))
		between := &whileWriting{Store: store, do: func() { rows.revoked = !crash }}
		_, err := a.Apply(t.Context(), between, h.Inputs)
		must(t, err)
		if crash { // the rows are written, nothing was committed, the next start knows of the revocation
			rows.revoked = true
			_, err := a.Apply(t.Context(), store, h.Inputs)
			must(t, err)
		}
		for _, row := range scan(t, store, identity.ByKey) {
			if !row.Deleted {
				t.Fatalf("crash %v: a row is left", crash)
			}
		}
		if n := len(scan(t, store, identity.ByPerson)) + len(scan(t, store, identity.ByFCID)); n != 0 {
			t.Errorf("crash %v: %d rows by person and by FCID are left", crash, n)
		}
	}
}
