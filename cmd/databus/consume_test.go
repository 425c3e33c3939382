package main

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/schemas"
)

// transactions fills a partition of rebuild.requests: offsets 0 and 1 committed, 2 their marker, 3 and 4 aborted, 5 their
// marker, 6 and 7 committed, 8 their marker. It returns the timestamps of the offsets; markers have that of their commit.
func transactions(t *testing.T, s *stack) (partition int32, times []time.Time) {
	t.Helper()
	s.ok(t, "produce", schemas.RebuildEvents, `{"job_id":"j","kind":"ACCEPTED","database_version":"v","graph_version":"g","at":1}`)
	value := *s.fetch(t, schemas.RebuildEvents)
	cl := s.client(t, kgo.TransactionalID("test"), kgo.DefaultProduceTopic(schemas.RebuildRequests))
	tick := func() time.Time {
		time.Sleep(10 * time.Millisecond)
		times = append(times, time.Now())
		return times[len(times)-1]
	}
	for _, commit := range []kgo.TransactionEndTry{kgo.TryCommit, kgo.TryAbort, kgo.TryCommit} {
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			r := &kgo.Record{Key: []byte("j"), Value: value.Value, Timestamp: tick()}
			if err := cl.ProduceSync(t.Context(), r).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
		tick()
		if err := cl.EndTransaction(t.Context(), commit); err != nil {
			t.Fatal(err)
		}
	}
	return schemas.Partition(schemas.RebuildRequests, []byte("j"), 4), times
}

// fetch returns the first record of a topic as it is stored.
func (s *stack) fetch(t *testing.T, topic string) *kgo.Record {
	t.Helper()
	cl := s.client(t, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	fetches := cl.PollRecords(ctx, 1)
	if err := fetches.Err(); err != nil {
		t.Fatal(err)
	}
	return fetches.Records()[0]
}

func listed(lines []line) string {
	var all []string
	for _, l := range lines {
		all = append(all, strconv.FormatInt(l.Offset, 10))
	}
	return strings.Join(all, " ")
}

func TestRangesOfATransactionalTopic(t *testing.T) {
	s := readyStack(t, schemas.RebuildRequests, schemas.RebuildEvents)
	partition, times := transactions(t, s)
	at := func(i int) string { return times[i].Truncate(time.Millisecond).Format(time.RFC3339Nano) }
	later := time.Now().Add(time.Hour).Format(time.RFC3339)
	p := fmt.Sprint(partition)
	for _, c := range []struct {
		args string
		want string
	}{
		{"", "0 1 6 7"},
		{"--partition " + p, "0 1 6 7"},
		{"--partition " + fmt.Sprint((partition+1)%4), ""},
		{"--read-uncommitted", "0 1 3 4 6 7"},
		{"--from 1", "1 6 7"},
		{"--from 2 --to 6", ""}, // a marker and an aborted transaction
		{"--from 1 --to 7", "1 6"},
		{"--to 1", "0"},
		{"--to 2 --partition " + p, "0 1"},
		{"--from end", ""},
		{"--from 99 --to end", ""},
		{"--from beginning --to 99", "0 1 6 7"},
		{"--from " + at(6), "6 7"},
		{"--from " + at(0) + " --to " + at(7), "0 1 6"},
		{"--from " + later, ""},
		{"--from " + at(2), "6 7"},
		{"--to " + at(4), "0 1"},
		{"--max 3", "0 1 6"},
		{"--follow --max 4", "0 1 6 7"},
	} {
		if got := listed(s.consume(t, append([]string{schemas.RebuildRequests}, strings.Fields(c.args)...)...)); got != c.want {
			t.Errorf("%s: offsets %s, want %s", c.args, got, c.want)
		}
	}
	s.run(t, "consume", schemas.RebuildRequests, "--partition", "4").fails(t, 1, "they are 0 to 3")
	s.run(t, "consume", schemas.RebuildRequests, "--from", "yesterday").fails(t, 1, "--from", "2026-01-31T12:00:00Z")
	s.run(t, "consume", schemas.RebuildRequests, "--follow", "--to", "3").fails(t, 1, "leave one of them out")
	s.run(t, "consume", schemas.UsageCounts).fails(t, 1, "databus topics apply usage.counts")
}

// A transaction that is open at the start belongs to what is read: acknowledged before it, or by it.
func TestOpenTransaction(t *testing.T) {
	s := readyStack(t, schemas.UsageEvents)
	s.ok(t, "produce", schemas.UsageEvents, usageEvent)
	value := s.fetch(t, schemas.UsageEvents).Value
	cl := s.client(t, kgo.TransactionalID("open"))
	if err := cl.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	r := &kgo.Record{Topic: schemas.UsageEvents, Key: []byte("acme"), Value: value}
	if err := cl.ProduceSync(t.Context(), r).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if got := listed(s.consume(t, schemas.UsageEvents, "--read-uncommitted")); got != "0 1" {
		t.Errorf("uncommitted: %s", got)
	}
	var wait sync.WaitGroup
	wait.Add(1)
	go func() {
		defer wait.Done()
		time.Sleep(patience + 500*time.Millisecond)
		if err := cl.EndTransaction(context.WithoutCancel(t.Context()), kgo.TryCommit); err != nil {
			t.Error(err)
		}
	}()
	res := s.run(t, "consume", schemas.UsageEvents)
	wait.Wait()
	if res.code != 0 || listed(parse(t, res.out)) != "0 1" {
		t.Errorf("%+v", res)
	}
	if !strings.Contains(res.err, "an open transaction hides offsets 1 to 1") {
		t.Errorf("stderr: %s", res.err)
	}
}

func TestUndecodable(t *testing.T) {
	s := readyStack(t, schemas.UsageEvents)
	s.ok(t, "produce", schemas.UsageEvents, usageEvent)
	good := s.fetch(t, schemas.UsageEvents).Value
	cl := s.client(t)
	put := func(topic string, value []byte, headers ...kgo.RecordHeader) {
		t.Helper()
		r := &kgo.Record{Topic: topic, Key: []byte("acme"), Value: value, Headers: headers}
		if err := cl.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	unknown := append([]byte{0, 0, 1, 0, 0}, good[5:]...)
	bad := [][]byte{good[:8], unknown, []byte("x"), {}}
	for _, b := range bad {
		put(schemas.UsageEvents, b)
	}
	put(schemas.UsageEvents, good)
	lines := s.consume(t, schemas.UsageEvents)
	if len(lines) != 6 {
		t.Fatalf("%d lines", len(lines))
	}
	for i, b := range bad {
		l := lines[i+1]
		if l.Error == "" || !bytes.Equal(l.Bytes, b) || l.Value != nil {
			t.Errorf("bad value %d: %+v", i, l)
		}
	}
	if !strings.Contains(lines[2].Error, "unknown schema (schema id 65536)") {
		t.Errorf("error %q", lines[2].Error)
	}
	if lines[5].Error != "" || lines[5].Value == nil {
		t.Errorf("the good one behind them: %+v", lines[5])
	}
	r := s.run(t, "consume", schemas.UsageEvents, "--strict")
	r.fails(t, 1, "4 values of usage.events could not be decoded")
	if len(parse(t, r.out)) != 6 {
		t.Errorf("--strict printed %s", r.out)
	}

	dead := schemas.MustLookup(schemas.UsageEvents).DeadLetter()
	put(dead, good, kgo.RecordHeader{Key: "reason", Value: []byte("late")}, kgo.RecordHeader{Key: "raw", Value: []byte{0xff}})
	put(dead, []byte("garbage"))
	lines = s.consume(t, dead, "--strict")
	if len(lines) != 2 || lines[0].Value == nil || *lines[0].Headers[0].Value != "late" || !bytes.Equal(lines[0].Headers[1].ValueBytes, []byte{0xff}) {
		t.Errorf("dead letters %+v", lines)
	}
	if string(lines[1].Bytes) != "garbage" || lines[1].Error == "" {
		t.Errorf("dead letter %+v", lines[1])
	}
}

func TestFollowEndsWhenInterrupted(t *testing.T) {
	s := readyStack(t, schemas.UsageEvents)
	s.ok(t, "produce", schemas.UsageEvents, usageEvent)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := &watched{want: 2, seen: cancel}
	done := make(chan int)
	go func() {
		done <- run(ctx, []string{"--dir", s.dir, "consume", schemas.UsageEvents, "--follow"}, strings.NewReader(""), out, out)
	}()
	s.ok(t, "produce", schemas.UsageEvents, usageEvent)
	select {
	case code := <-done:
		if code != 0 {
			t.Errorf("exit code %d", code)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("it does not end")
	}
}

// watched is a writer that calls seen after a number of lines.
type watched struct {
	want int
	seen func()
}

func (w *watched) Write(b []byte) (int, error) {
	if w.want -= bytes.Count(b, []byte("\n")); w.want <= 0 {
		w.seen()
	}
	return len(b), nil
}
