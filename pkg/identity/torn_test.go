package identity

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"databus/pkg/graph"
	"databus/schemas/event"
)

// torn is a store without transactions that dies in the middle of Apply: it runs the single writes of a batch in the
// order that the port promises and stops after some of them.
type torn struct {
	*pebbleStore
	random *rand.Rand
}

var errTorn = errors.New("torn")

func (s *torn) Apply(ctx context.Context, changes []Change) error {
	if s.random.IntN(2) == 0 {
		return s.pebbleStore.Apply(ctx, changes)
	}
	var writes []func(*pebble.Batch) error
	set := func(t Table, r *Row) {
		writes = append(writes, func(b *pebble.Batch) error { return b.Set(s.key(t, r, len(t.Key())), t.encode(r), nil) })
	}
	for i := range changes {
		row := &changes[i].New
		for _, t := range []Table{ByPerson, ByFCID} {
			if t.Holds(row) {
				set(t, row)
			}
		}
		for _, t := range []Table{ByPerson, ByFCID} {
			for _, left := range changes[i].Left {
				gone := Row{Account: row.Account, RecordKey: row.RecordKey, FCID: left.FCID, PersonID: left.PersonID}
				writes = append(writes, func(b *pebble.Batch) error { return b.Delete(s.key(t, &gone, len(t.Key())), nil) })
			}
		}
		set(ByKey, row)
	}
	b := s.stores.db.NewBatch()
	defer b.Close()
	for _, write := range writes[:s.random.IntN(len(writes)+1)] {
		if err := write(b); err != nil {
			return err
		}
	}
	return errors.Join(errTorn, b.Commit(pebble.NoSync))
}

// plainRows makes rows whose person is in the key id, so that this test is about writes alone.
type plainRows struct{}

func (plainRows) Row(_ context.Context, _ *graph.Graph, in *Input) (Row, error) {
	v, err := Version(in.Epoch, in.Offset)
	if err != nil {
		return Row{}, err
	}
	rec := in.Record
	if rec.Kind == event.RecordKindDelete {
		return Row{Account: rec.Account, RecordKey: rec.RecordKey, Deleted: true, Version: v}, nil
	}
	return Row{Account: rec.Account, RecordKey: rec.RecordKey, FCID: strings.Repeat(rec.KeyID, 32), PersonID: "00000000-0000-8000-8000-00000000000" + rec.KeyID,
		Version: v, KeyID: rec.KeyID, PayloadSchema: []byte("12345678"), Sealed: rec.Sealed}, nil
}

// A batch that was written in part and is then applied in other batches leaves nothing behind: no row of a person that
// a record passed through while the first attempt died.
func TestTornBatchesLeaveNothingBehind(t *testing.T) {
	stores, err := OpenPebble("")
	if err != nil {
		t.Fatal(err)
	}
	defer stores.Close()
	tears := 0
	for seed := range uint64(150) {
		r := rand.New(rand.NewPCG(seed, 3))
		s, err := stores.Keyspace(fmt.Sprint("torn", seed))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Create(t.Context()); err != nil {
			t.Fatal(err)
		}
		store := &torn{s.(*pebbleStore), r}
		var inputs []Input
		want := map[string]Row{}
		for i := range 60 {
			rec := &event.DatabusRecord{Account: "a", RecordKey: fmt.Sprintf("%032d", r.IntN(3)), Kind: event.RecordKindUpsert, RequestID: fmt.Sprint(i),
				KeyID: fmt.Sprint(r.IntN(4)), PayloadSchema: []byte("12345678"), Sealed: []byte(fmt.Sprintf("%040d", i))}
			if r.IntN(6) == 0 {
				rec.Kind = event.RecordKindDelete
			}
			in := Input{Record: rec, Offset: int64(i), AppendTime: time.UnixMilli(int64(i))}
			inputs = append(inputs, in)
			row, err := plainRows{}.Row(t.Context(), nil, &in)
			if err != nil {
				t.Fatal(err)
			}
			want[row.RecordKey] = row
		}
		applier := Applier{Rows: plainRows{}}
		for next := 0; next < len(inputs); {
			batch := inputs[next:min(next+1+r.IntN(12), len(inputs))]
			_, err := applier.Apply(t.Context(), store, batch)
			switch {
			case errors.Is(err, errTorn):
				tears++
			case err != nil:
				t.Fatal(err)
			default:
				next += len(batch)
			}
		}
		for _, table := range Tables() {
			found := map[string]Row{}
			if err := store.Scan(t.Context(), table, func(row *Row) error {
				if old, ok := found[row.RecordKey]; ok {
					t.Fatalf("seed %d: %s has a record twice, as %s and %s", seed, table.Name, old.KeyID, row.KeyID)
				}
				row.Recent = nil
				found[row.RecordKey] = *row
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			for key, row := range want {
				got, ok := found[key]
				if ok != table.Holds(&row) || ok && !reflect.DeepEqual(got, row) {
					t.Fatalf("seed %d: %s has %+v (%v), want %+v", seed, table.Name, got, ok, row)
				}
			}
		}
	}
	if tears < 100 {
		t.Errorf("only %d batches were torn", tears)
	}
}

func (plainRows) Revoked(context.Context, string) (bool, error) { return false, nil }
