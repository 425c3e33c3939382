package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/blob"
	"databus/pkg/history"
	"databus/pkg/service"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
	"databus/services/archiver"
)

// archived is a stack whose usage.events are in a bucket, written by the archiver.
type archived struct {
	*stack
	dir string // of the bucket
}

// archive runs the archiver on a bucket in a directory until so many records of the topics are in it, then ends it.
func (s *stack) archive(t *testing.T, dir string, records int, names ...string) {
	t.Helper()
	bucket, err := blob.OpenFileSystem(dir)
	if err != nil {
		t.Fatal(err)
	}
	cfg := archiver.Default()
	cfg.Topics, cfg.Idle, cfg.MaxRecords, cfg.SortBy = names, 150*time.Millisecond, 40, s.sortBy
	log := slog.New(slog.DiscardHandler)
	a, err := archiver.Open(cfg, archiver.Parts{
		Client: []kgo.Opt{
			kgo.SeedBrokers(s.Broker.Seeds()...), kgo.MetadataMinAge(50 * time.Millisecond), kgo.FetchMaxWait(100 * time.Millisecond),
			kgo.RecordPartitioner(service.Partitioner()), kgo.HeartbeatInterval(500 * time.Millisecond),
		},
		TransactionTimeout: 3 * time.Second, TransactionalID: "archiver", Bucket: bucket, SpoolDir: t.TempDir(), Log: log,
		Codec: codec.New(codec.NewRegistry(s.Registry.URL()), codec.Options{}),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the archiver ended with %v", err)
		}
	}()
	for end := time.Now().Add(40 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the archiver did not come to the end")
		}
		n := int64(0)
		for _, l := range s.ls(t, dir, "--manifest") {
			n += l.Rows + l.DeadLetters
		}
		if n >= int64(records) {
			return
		}
	}
}

func (s *stack) ls(t *testing.T, dir string, args ...string) []lsLine {
	t.Helper()
	out := s.ok(t, append([]string{"archive", "ls", "--bucket-url", "file://" + dir, "--format", "json"}, args...)...)
	var lines []lsLine
	for d := json.NewDecoder(strings.NewReader(out)); d.More(); {
		var l lsLine
		if err := d.Decode(&l); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, l)
	}
	return lines
}

// usage are events of several accounts, some with headers, with a tombstone, a record without a key and one that is no event.
func (s *stack) usage(t *testing.T, n int) []*kgo.Record {
	t.Helper()
	serde := codec.For[event.UsageEvent](codec.New(codec.NewRegistry(s.Registry.URL()), codec.Options{}), schemas.UsageEvents)
	var all []*kgo.Record
	for i := range n {
		account := fmt.Sprint("account-", i%5)
		value, err := serde.Encode(t.Context(), &event.UsageEvent{
			EventID: fmt.Sprint("event-", i), Account: account, Pack: "person", OccurredAt: time.UnixMicro(1_767_000_000_000_000 + int64(i)), Quantity: int64(i), Status: 200,
		})
		if err != nil {
			t.Fatal(err)
		}
		rec := &kgo.Record{Topic: schemas.UsageEvents, Key: []byte(account), Value: value}
		switch i % 11 {
		case 1:
			rec.Headers = []kgo.RecordHeader{{Key: "traceparent", Value: fmt.Append(nil, i)}, {Key: "none"}, {Key: "empty", Value: []byte{}}}
		case 3:
			rec.Value = nil
		case 5:
			rec.Key = nil
		case 7:
			rec.Key, rec.Value = []byte{}, []byte{0xff, 1}
		}
		all = append(all, rec)
	}
	return all
}

// send produces in transactions, each after one that is aborted.
func (s *stack) send(t *testing.T, records []*kgo.Record) {
	t.Helper()
	cl := s.client(t, kgo.TransactionalID("usage"))
	for i := 0; i < len(records); i += 50 {
		batch := records[i:min(i+50, len(records))]
		for _, end := range []kgo.TransactionEndTry{kgo.TryAbort, kgo.TryCommit} {
			if err := cl.BeginTransaction(); err != nil {
				t.Fatal(err)
			}
			send := batch
			if end == kgo.TryAbort {
				send = []*kgo.Record{{Topic: schemas.UsageEvents, Key: []byte("account-1"), Value: []byte("aborted")}, {Topic: schemas.UsageEvents, Key: []byte("account-2"), Value: []byte("aborted")}}
			}
			if err := cl.ProduceSync(t.Context(), send...).FirstErr(); err != nil {
				t.Fatal(err)
			}
			if err := cl.EndTransaction(t.Context(), end); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func newArchived(t *testing.T, records int, sortBy ...string) *archived {
	t.Helper()
	a := &archived{stack: readyStack(t), dir: filepath.Join(t.TempDir(), "bucket")}
	a.sortBy = sortBy
	a.send(t, a.usage(t, records))
	a.stack.archive(t, a.dir, records, schemas.UsageEvents)
	return a
}

// on names the bucket to a command.
func (a *archived) on(args ...string) []string {
	return append([]string{"archive"}, append(args, "--bucket-url", "file://"+a.dir)...)
}

// read gives a topic's committed records by partition.
func (s *stack) read(t *testing.T, topic string) map[int32][]*kgo.Record {
	t.Helper()
	g := Globals{Brokers: s.Broker.Seeds(), Registry: s.Registry.URL(), Err: t.Output()}
	found := map[int32][]*kgo.Record{}
	spans, err := stable(t.Context(), s.admin(t), topic)
	if err == nil {
		err = g.scan(t.Context(), topic, spans, func(rec *kgo.Record) error {
			found[rec.Partition] = append(found[rec.Partition], rec)
			return nil
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestArchiveLs(t *testing.T) {
	a := newArchived(t, 300)
	lines := a.ls(t, a.dir)
	var rows, dead int64
	files := 0
	for _, l := range lines {
		rows, dead, files = rows+l.Rows, dead+l.DeadLetters, files+l.Files
		if l.Topic != schemas.UsageEvents || l.First != 0 || l.Next == 0 || l.Bytes == 0 || l.From == "" || l.To < l.From {
			t.Errorf("%+v", l)
		}
	}
	if rows+dead != 300 || dead != 27 {
		t.Errorf("%d rows and %d dead letters of 300 and 27", rows, dead)
	}
	if all := a.ls(t, a.dir, "--files", schemas.UsageEvents); len(all) != files || files <= len(lines) {
		t.Errorf("%d files, %d lines, want %d", len(all), len(lines), files)
	}
	if other := a.ls(t, a.dir, schemas.DatabusRecords); len(other) != 0 {
		t.Errorf("%+v", other)
	}
	if out := a.ok(t, a.on("ls", "--manifest")...); !strings.Contains(out, "BUCKET ONLY") || strings.Count(out, "\n") != len(lines)+1 {
		t.Error(out)
	}
	objects := a.ls(t, a.dir, "--files")
	if err := os.Remove(filepath.Join(a.dir, objects[0].Object)); err != nil {
		t.Fatal(err)
	}
	if m := a.ls(t, a.dir, "--manifest"); *m[0].ManifestOnly != 1 || *m[0].BucketOnly != 0 || m[0].Rows != lines[0].Rows {
		t.Errorf("without an object: %+v", m[0])
	}
	invoke(t.Context(), strings.NewReader(""), "--dir", t.TempDir(), "archive", "ls").fails(t, 1, "which bucket holds the archive", "--bucket-url")
}

func TestArchiveCat(t *testing.T) {
	a := newArchived(t, 120, schemas.UsageEvents+"=account")
	want := parse(t, a.ok(t, "consume", schemas.UsageEvents))
	byPlace := map[[2]int64]line{}
	for _, l := range want {
		if l.Error == "" {
			byPlace[[2]int64{int64(l.Partition), l.Offset}] = l
		}
	}
	// Nothing but the bucket is there.
	cat := func(args ...string) []line {
		t.Helper()
		args = append([]string{"--brokers", "127.0.0.1:1", "--registry", "http://127.0.0.1:1", "archive", "cat", schemas.UsageEvents, "--bucket-url", "file://" + a.dir}, args...)
		r := invoke(t.Context(), strings.NewReader(""), args...)
		if r.code != 0 {
			t.Fatal(r)
		}
		return parse(t, r.out)
	}
	got := cat()
	if len(got) != len(byPlace) {
		t.Errorf("%d rows of %d", len(got), len(byPlace))
	}
	for i, l := range got {
		if i > 0 && got[i-1].Partition == l.Partition && got[i-1].Offset >= l.Offset {
			t.Errorf("offset %d comes behind %d", l.Offset, got[i-1].Offset)
		}
		is, _ := json.Marshal(l)
		was, _ := json.Marshal(byPlace[[2]int64{int64(l.Partition), l.Offset}])
		if !bytes.Equal(is, was) {
			t.Errorf("row\n%s\nof\n%s", is, was)
		}
	}
	p := got[len(got)-1].Partition
	var in []line
	for _, l := range got {
		if l.Partition == p {
			in = append(in, l)
		}
	}
	from, to := in[len(in)/3], in[len(in)-2]
	part := cat("-p", fmt.Sprint(p), "--from", fmt.Sprint(from.Offset), "--to", fmt.Sprint(to.Offset))
	if len(part) == 0 || part[0].Offset != from.Offset || part[len(part)-1].Offset >= to.Offset || len(part) != len(in)-2-len(in)/3 {
		t.Errorf("%d rows from %d to %d: %+v", len(part), from.Offset, to.Offset, part)
	}
	for _, l := range cat("-p", fmt.Sprint(p), "--from", to.Timestamp) {
		if l.Timestamp < to.Timestamp {
			t.Errorf("%+v is before %s", l, to.Timestamp)
		}
	}
	if n := len(cat("--to", "1970-01-01T00:00:00Z")); n != 0 {
		t.Errorf("%d rows before all of them", n)
	}
	if n := len(cat("--from", "2970-01-01T00:00:00Z")); n != 0 {
		t.Errorf("%d rows after all of them", n)
	}
	if n := len(cat("--max", "3")); n != 3 {
		t.Errorf("%d rows of 3", n)
	}
	a.run(t, a.on("cat", "nothing")...).fails(t, 1, "there is no object of topic nothing")
	a.run(t, a.on("cat", schemas.UsageEvents, "--from", "yesterday")...).fails(t, 1, "--from", "neither an offset nor a time")
}

// Every record comes back in its partition, in order, with everything but its offset.
func TestArchiveRestore(t *testing.T) {
	a := newArchived(t, 400, schemas.UsageEvents+"=quantity") // whoever reads it need not know
	if out := a.ok(t, a.on("verify", "--deep")...); !strings.Contains(out, " 364 rows, 0 problems\n") {
		t.Error(out)
	}
	const to = "usage.events.restored"
	state, offsets := filepath.Join(t.TempDir(), "state"), filepath.Join(t.TempDir(), "offsets")
	restore := a.on("restore", schemas.UsageEvents, "--to", to, "--state", state, "--offsets", offsets)
	if out := a.ok(t, restore...); !strings.Contains(out, "364 rows") {
		t.Error(out)
	}
	a.restored(t, to, offsets)
	if out := a.ok(t, restore...); !strings.Contains(out, "restored: 0 files") {
		t.Error("the second time: ", out)
	}

	// What is archived later is added.
	a.send(t, a.usage(t, 60))
	a.stack.archive(t, a.dir, 460, schemas.UsageEvents)
	a.ok(t, restore...)
	a.restored(t, to, offsets)

	a.run(t, a.on("restore", schemas.UsageEvents, "--to", to, "--state", state+"2", "--offsets", offsets+"2")...).
		fails(t, 1, "is not empty", "--append")
	a.create(t, "narrow", 1)
	a.run(t, a.on("restore", schemas.UsageEvents, "--to", "narrow", "--state", state+"3", "--offsets", offsets+"3")...).
		fails(t, 1, "topic narrow has 1 partitions")
	a.create(t, "elsewhere", schemas.MustLookup(schemas.UsageEvents).Partitions)
	r := a.run(t, a.on("restore", schemas.UsageEvents, "--to", "elsewhere", "--state", state, "--offsets", offsets)...)
	r.fails(t, 1, "is the state of restoring usage.events to usage.events.restored")
}

// restored compares a topic with usage.events, and both with the mapping of offsets.
func (a *archived) restored(t *testing.T, to, offsets string) {
	t.Helper()
	b, err := os.ReadFile(offsets)
	if err != nil {
		t.Fatal(err)
	}
	mapped := map[[2]int64]int64{}
	for d := json.NewDecoder(bytes.NewReader(b)); d.More(); {
		var m history.Moved
		if err := d.Decode(&m); err != nil {
			t.Fatal(err)
		}
		for i := range m.To - m.From {
			mapped[[2]int64{int64(m.Partition), m.From + i}] = m.NewFrom + i
		}
		if m.NewTo-m.NewFrom != m.To-m.From || m.NewTopic != to || m.Topic != schemas.UsageEvents {
			t.Errorf("%+v", m)
		}
	}
	was, is := a.read(t, schemas.UsageEvents), a.read(t, to)
	n := 0
	for p, records := range was {
		next := 0
		for _, old := range records {
			if len(old.Value) == 2 {
				continue // a dead letter
			}
			if next == len(is[p]) {
				t.Fatalf("partition %d ends at %d", p, next)
			}
			rec := is[p][next]
			next++
			n++
			if fmt.Sprintf("%#v %#v %#v %v", old.Key, old.Value, old.Headers, old.Timestamp.UnixMilli()) != fmt.Sprintf("%#v %#v %#v %v", rec.Key, rec.Value, rec.Headers, rec.Timestamp.UnixMilli()) {
				t.Errorf("%d@%d is\n%+v, was\n%+v", p, rec.Offset, rec, old)
			}
			if got, ok := mapped[[2]int64{int64(p), old.Offset}]; !ok || got != rec.Offset {
				t.Errorf("%d@%d is mapped to %d (%v), and is at %d", p, old.Offset, got, ok, rec.Offset)
			}
		}
		if next != len(is[p]) {
			t.Errorf("partition %d has %d records, want %d", p, len(is[p]), next)
		}
	}
	if n != len(mapped) || n == 0 {
		t.Errorf("%d records, %d in the mapping", n, len(mapped))
	}
}

func (s *stack) admin(t *testing.T) *kadm.Client { t.Helper(); return kadm.NewClient(s.client(t)) }

// A restore that dies leaves records behind what its state says; the next run recognises them and goes on.
func TestArchiveRestoreGoesOn(t *testing.T) {
	a := newArchived(t, 300)
	const to = "usage.events.restored"
	state, offsets := filepath.Join(t.TempDir(), "state"), filepath.Join(t.TempDir(), "offsets")
	restore := a.on("restore", schemas.UsageEvents, "--to", to, "--state", state, "--offsets", offsets)
	a.ok(t, restore...)
	whole := a.read(t, to)

	// The state and the mapping as they were before anything had been noted, and as a crash in the middle of a partition
	// with several files left them: every file but the first is not noted.
	full, err := os.ReadFile(state)
	if err != nil {
		t.Fatal(err)
	}
	var p int32
	var first history.Object
	for _, l := range a.ls(t, a.dir) {
		if l.Files > 2 {
			p = l.Partition
		}
	}
	bucket, err := blob.OpenFileSystem(a.dir)
	if err != nil {
		t.Fatal(err)
	}
	listing, err := history.List(t.Context(), bucket, "archive", schemas.UsageEvents)
	if err != nil {
		t.Fatal(err)
	}
	for _, objects := range listing.Partitions() {
		if objects[0].Partition == p {
			first = objects[0]
		}
	}
	f, err := footer(t.Context(), bucket, first.Key)
	if err != nil {
		t.Fatal(err)
	}
	rewind := func(object string, next, newNext int64) {
		t.Helper()
		var s map[string]any
		if err := json.Unmarshal(full, &s); err != nil {
			t.Fatal(err)
		}
		s["partitions"].(map[string]any)[fmt.Sprint(p)] = map[string]any{"object": object, "next": next, "new_next": newNext}
		s["offsets_bytes"] = 0
		for q := range whole {
			if q != p {
				s["partitions"].(map[string]any)[fmt.Sprint(q)] = map[string]any{"next": -1, "new_next": 0}
			}
		}
		b, err := json.Marshal(s)
		if err == nil {
			err = os.WriteFile(state, b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	rewind("", -1, 0)
	if r := a.run(t, restore...); r.code != 0 || !strings.Contains(r.err, "rows had been sent by an earlier run") {
		t.Errorf("%+v", r)
	}
	a.restored(t, to, offsets)
	rewind(first.Key, f.Next, f.Rows)
	a.ok(t, restore...)
	if got := a.read(t, to); fmt.Sprint(len(got[p])) != fmt.Sprint(len(whole[p])) {
		t.Errorf("%d records of %d", len(got[p]), len(whole[p]))
	}

	// Somebody else's record is noticed, at the end and in the middle.
	cl := a.client(t, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: to, Partition: p, Value: []byte("other")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	a.run(t, restore...).fails(t, 1, "1 records more than the archive", "somebody else wrote")
	rewind(first.Key, f.Next, f.Rows-1)
	a.run(t, restore...).fails(t, 1, "is not the one that an earlier run sent there")
}

// A restore that is interrupted again and again, wherever that is, comes to the same end.
func TestArchiveRestoreInterrupted(t *testing.T) {
	a := newArchived(t, 600)
	const to = "usage.events.restored"
	state, offsets := filepath.Join(t.TempDir(), "state"), filepath.Join(t.TempDir(), "offsets")
	restore := append([]string{"--dir", a.stack.dir}, a.on("restore", schemas.UsageEvents, "--to", to, "--state", state, "--offsets", offsets)...)
	interrupted := 0
	for wait := 2 * time.Millisecond; ; wait += 3 * time.Millisecond {
		ctx, cancel := context.WithCancel(t.Context())
		interrupt := time.AfterFunc(wait, cancel)
		r := invoke(ctx, strings.NewReader(""), restore...)
		interrupt.Stop()
		cancel()
		if r.code == 0 {
			break
		}
		if interrupted++; r.code != 130 {
			t.Fatalf("%+v", r)
		}
	}
	if interrupted == 0 {
		t.Error("no run was interrupted")
	}
	a.restored(t, to, offsets)
}

func TestArchiveDDL(t *testing.T) {
	a := newArchived(t, 30)
	duck := a.ok(t, a.on("ddl", schemas.UsageEvents, "--engine", "duckdb")...)
	if !strings.Contains(duck, `VIEW "usage_events"`) || !strings.Contains(duck, "read_parquet('"+a.dir+"/archive/usage.events/dt=*/hr=*/*.parquet'") {
		t.Error(duck)
	}
	a.run(t, a.on("ddl", schemas.UsageEvents, "--engine", "athena")...).fails(t, 1, "--location s3://")
	athena := a.ok(t, a.on("ddl", schemas.UsageEvents, "--engine", "athena", "--location", "s3://b/archive/usage.events/", "--table", "u")...)
	day := a.ls(t, a.dir)[0].From[:len("2006-01-02")]
	for _, want := range []string{"TABLE IF NOT EXISTS `u`", "`quantity` bigint", "'projection.dt.range' = '" + day + ",NOW+1DAY'", "'s3://b/archive/usage.events/dt=${dt}/hr=${hr}/'"} {
		if !strings.Contains(athena, want) {
			t.Errorf("%s\ndoes not hold %s", athena, want)
		}
	}
	r := a.run(t, a.on("ddl", schemas.DatabusRecords, "--engine", "spark")...)
	if r.code != 0 || !strings.Contains(r.out, "`record_key` string") || !strings.Contains(r.err, "no file of databus.records has a value yet") {
		t.Errorf("%+v", r)
	}
	g := &Globals{Dir: t.TempDir()}
	where, endpoint, pathStyle, err := archiveFlags{BucketURL: "s3://b/x?endpoint=http://127.0.0.1:7070&path_style=true", Prefix: "archive"}.location(g, "t")
	if err != nil || where != "s3://b/x/archive/t" || endpoint.Host != "127.0.0.1:7070" || !pathStyle {
		t.Error(where, endpoint, pathStyle, err)
	}
	if s := secret(endpoint, pathStyle); !strings.Contains(s, "PROVIDER credential_chain, ENDPOINT '127.0.0.1:7070', USE_SSL false, URL_STYLE 'path')") {
		t.Error(s)
	}
}
