package ingest

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"time"

	gocql "github.com/apache/cassandra-gocql-driver/v2"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"databus/pkg/graph"
	"databus/pkg/identity"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

// log makes the rows of an account's records, in the order of each partition's offsets: what the driver writes is what
// ingest wrote, sealed bytes and versions included.
func (w *world) log(ctx context.Context, account string) (rows []identity.Row, err error) {
	serde := codec.For[event.DatabusRecord](w.codec, schemas.DatabusRecords)
	ends, err := w.admin.ListEndOffsets(ctx, schemas.DatabusRecords)
	if err != nil {
		return nil, err
	}
	recent := map[string]identity.Recent{}
	for p, end := range ends[schemas.DatabusRecords] {
		if end.Offset == 0 {
			continue
		}
		c, err := kgo.NewClient(append(append([]kgo.Opt{}, w.opts...), kgo.KeepControlRecords(), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
			kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{schemas.DatabusRecords: {p: kgo.NewOffset().AtStart()}}))...)
		if err != nil {
			return nil, err
		}
		for at := int64(0); at < end.Offset && err == nil; {
			c.PollFetches(ctx).EachRecord(func(rec *kgo.Record) {
				at = rec.Offset + 1
				var record event.DatabusRecord
				if err != nil || rec.Attrs.IsControl() {
					return
				}
				if err = serde.Decode(ctx, rec.Value, &record); err != nil || record.Account != account {
					return
				}
				in := identity.Input{Record: &record, Offset: rec.Offset, AppendTime: rec.Timestamp}
				var row identity.Row
				if row, err = w.resolver.Row(ctx, graph.Genesis(), &in); err == nil {
					row.Recent, _ = recent[row.RecordKey].Accept(record.RequestID, rec.Timestamp)
					recent[row.RecordKey] = row.Recent
					rows = append(rows, row)
				}
			})
			if ctx.Err() != nil {
				err = ctx.Err()
			}
		}
		c.Close()
		if err != nil {
			return nil, err
		}
	}
	if len(rows) != w.o.Records/2*2 {
		return nil, fmt.Errorf("%d records of %s are on the Databus, want %d", len(rows), account, w.o.Records/2*2)
	}
	return rows, nil
}

// cell is a value in CQL's binary form.
type cell []byte

func (c cell) MarshalCQL(gocql.TypeInfo) ([]byte, error) { return c, nil }

func (c *cell) UnmarshalCQL(_ gocql.TypeInfo, b []byte) error {
	*c = append((*c)[:0], b...)
	return nil
}

func values(columns []identity.Column, r *identity.Row) []any {
	v := make([]any, len(columns))
	for i, c := range columns {
		v[i] = cell(c.Value(r))
	}
	return v
}

// workers is as many records as the identity store writes at once.
const workers = 64

// driver issues the statements that the tables need for these rows, nothing else: for each version of a record the read of
// its row, the new rows, the deletion of those that it left, and the row by key, in this order; different records at once.
func (w *world) driver(ctx context.Context, rows []identity.Row) (rate float64, err error) {
	tables := identity.Tables()
	byKey := tables[len(tables)-1]
	read := byKey.SelectCQL(theirs, "account = ? AND record_key = ?")
	inserts, deletes := map[string]string{}, map[string]string{}
	for _, t := range tables {
		inserts[t.Name], deletes[t.Name] = t.InsertCQL(theirs), t.DeleteCQL(theirs)
	}
	// Versions of one record stay in order: they are one job.
	jobs, index := [][]*identity.Row{}, map[string]int{}
	for i := range rows {
		n, ok := index[rows[i].RecordKey]
		if !ok {
			n = len(jobs)
			index[rows[i].RecordKey], jobs = n, append(jobs, nil)
		}
		jobs[n] = append(jobs[n], &rows[i])
	}
	one := func(ctx context.Context, row, left *identity.Row) error {
		dest := make([]any, len(byKey.Columns))
		for i := range dest {
			dest[i] = new(cell)
		}
		err := w.session.Query(read, values(byKey.Key(), row)...).ScanContext(ctx, dest...)
		if (err == nil) != (left != nil) && (err == nil || err == gocql.ErrNotFound) {
			return fmt.Errorf("a record was found: %v, want %v", err == nil, left != nil)
		}
		if err != nil && err != gocql.ErrNotFound {
			return err
		}
		for _, t := range tables[:len(tables)-1] {
			if err := w.session.Query(inserts[t.Name], append(values(t.Columns, row), row.Version)...).ExecContext(ctx); err != nil {
				return err
			}
		}
		if left != nil {
			for _, t := range tables[:len(tables)-1] {
				if err := w.session.Query(deletes[t.Name], append([]any{row.Version}, values(t.Key(), left)...)...).ExecContext(ctx); err != nil {
					return err
				}
			}
		}
		return w.session.Query(inserts[byKey.Name], append(values(byKey.Columns, row), row.Version)...).ExecContext(ctx)
	}
	begin := time.Now()
	for part := range 2 { // first all new ones, then all moves, as ingest got them
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(workers)
		for _, versions := range jobs {
			if part >= len(versions) {
				continue
			}
			g.Go(func() error {
				var left *identity.Row
				if part > 0 {
					left = versions[part-1]
				}
				return one(gctx, versions[part], left)
			})
		}
		if err := g.Wait(); err != nil {
			return 0, err
		}
	}
	return float64(len(rows)) / time.Since(begin).Seconds(), nil
}

// compare proves that both did the same work: every row of every table is the same in both keyspaces.
func (w *world) compare(ctx context.Context) (n int, err error) {
	for _, t := range identity.Tables() {
		var sides [2]map[string][]byte
		var wg sync.WaitGroup
		var errs [2]error
		for i, keyspace := range []string{ours, theirs} {
			wg.Go(func() {
				sides[i] = map[string][]byte{}
				iter := w.session.Query("SELECT * FROM " + keyspace + "." + t.Name).PageSize(1000).IterContext(ctx)
				for m := (map[string]any{}); iter.MapScan(m); m = map[string]any{} {
					key := ""
					for _, c := range t.Key() {
						key += fmt.Sprint(m[c.Name], "/")
					}
					var b bytes.Buffer
					for _, c := range t.Columns {
						fmt.Fprint(&b, m[c.Name], "|")
					}
					sides[i][key] = b.Bytes()
				}
				errs[i] = iter.Close()
			})
		}
		wg.Wait()
		for _, err := range errs {
			if err != nil {
				return n, fmt.Errorf("comparing %s: %w", t.Name, err)
			}
		}
		if len(sides[0]) != len(sides[1]) {
			return n, fmt.Errorf("comparing %s: ingest left %d rows, the driver %d", t.Name, len(sides[0]), len(sides[1]))
		}
		for key, row := range sides[0] {
			if !bytes.Equal(row, sides[1][key]) {
				return n, fmt.Errorf("comparing %s: a row differs", t.Name)
			}
			n++
		}
	}
	return n, nil
}
