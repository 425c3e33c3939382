package embedded

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// image copies a running broker's directory: what a kill at this moment would leave.
func image(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "image")
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

func copyFile(t *testing.T, from, to string, names ...string) {
	t.Helper()
	for _, name := range names {
		data, err := os.ReadFile(filepath.Join(from, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(to, name), data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// cut takes bytes off the end of a file; a negative number adds some that mean nothing.
func cut(t *testing.T, path string, n int64) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if n < 0 {
		err = appendFile(path, []byte("\x40\x00\x00\x00garbage that a kill left behind")[:-n])
	} else {
		err = os.Truncate(path, info.Size()-n)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// stageOffset adds an offset of topic "out", partition 0, to the client's open transaction.
func stageOffset(t *testing.T, cl *kgo.Client, txID, group string, offset int64) {
	t.Helper()
	pid, epoch, err := cl.ProducerID(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	req := kmsg.NewPtrTxnOffsetCommitRequest()
	req.TransactionalID, req.Group, req.ProducerID, req.ProducerEpoch, req.Generation = txID, group, pid, epoch, -1
	described, err := kadm.NewClient(cl).ListTopics(testContext(t), "out")
	if err != nil {
		t.Fatal(err)
	}
	topic := kmsg.NewTxnOffsetCommitRequestTopic()
	topic.Topic, topic.TopicID = "out", described["out"].ID
	part := kmsg.NewTxnOffsetCommitRequestTopicPartition()
	part.Offset = offset
	topic.Partitions = append(topic.Partitions, part)
	req.Topics = append(req.Topics, topic)
	resp, err := req.RequestWith(testContext(t), cl)
	if err != nil || resp.Topics[0].Partitions[0].ErrorCode != 0 {
		t.Fatal(err, resp)
	}
}

// begin opens a transaction with a record in each of the first two partitions of "out", and an offset.
func begin(t *testing.T, cl *kgo.Client, txID string, offset int64) {
	t.Helper()
	if err := cl.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	for p := range int32(2) {
		r := &kgo.Record{Topic: "out", Partition: p, Value: []byte(txID)}
		if err := cl.ProduceSync(testContext(t), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	stageOffset(t, cl, txID, "g", offset)
}

func groupOffset(t *testing.T, addr, group string) int64 {
	t.Helper()
	offsets, err := kadm.NewClient(client(t, addr)).FetchOffsets(testContext(t), group)
	if err != nil {
		t.Fatal(err)
	}
	o, ok := offsets.Lookup("out", 0)
	if !ok {
		return -1
	}
	return o.At
}

// TestKillAtTheCommit kills the broker at chosen points of a commit, by putting together what it leaves there.
func TestKillAtTheCommit(t *testing.T) {
	ctx, dir := testContext(t), t.TempDir()
	b := startBroker(t, BrokerOptions{Dir: dir})
	createTopic(t, client(t, b.Addr()), "out", 2, nil)
	cl := client(t, b.Addr(), kgo.TransactionalID("tx"))
	begin(t, cl, "tx", 5)
	if err := cl.EndTransaction(ctx, kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	begin(t, cl, "tx", 7)
	before := image(t, dir)
	if err := cl.EndTransaction(ctx, kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	after := image(t, dir)
	logs := []string{"log/groups.log", "log/pids.log"}
	for _, c := range []struct {
		name    string
		dir     string
		records int
		offset  int64
		prepare func(dir string)
	}{
		{"before the decision", before, 2, 5, func(string) {}},
		{"within the decision", before, 2, 5, func(dir string) {
			copyFile(t, after, dir, "decision")
			cut(t, filepath.Join(dir, "decision"), 3)
		}},
		{"after the decision", before, 4, 7, func(dir string) { copyFile(t, after, dir, "decision") }},
		{"after the first marker", after, 4, 7, func(dir string) {
			copyFile(t, before, dir, append(logs, "log/partitions/out-1/0.dat", "log/partitions/out-1/0.idx")...)
		}},
		{"within the second marker", after, 4, 7, func(dir string) {
			copyFile(t, before, dir, logs...)
			cut(t, filepath.Join(dir, "log/partitions/out-1/0.dat"), 20)
			cut(t, filepath.Join(dir, "log/partitions/out-1/0.idx"), 2)
		}},
		{"after the markers", after, 4, 7, func(dir string) { copyFile(t, before, dir, logs...) }},
		{"after the offsets", after, 4, 7, func(dir string) { copyFile(t, before, dir, "log/pids.log") }},
		{"at the end", after, 4, 7, func(string) {}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := image(t, c.dir)
			c.prepare(dir)
			for range 2 { // the second start must not repair again what the first did
				b := startBroker(t, BrokerOptions{Dir: dir})
				if n := len(committed(t, b.Addr(), "out")); n != c.records {
					t.Errorf("%d records are visible, want %d", n, c.records)
				}
				if o := groupOffset(t, b.Addr(), "g"); o != c.offset {
					t.Errorf("the group's offset is %d, want %d", o, c.offset)
				}
				dir = image(t, dir)
			}
			// A later transaction of the same id must be visible, and must not wake what was given up.
			b := startBroker(t, BrokerOptions{Dir: dir})
			next := client(t, b.Addr(), kgo.TransactionalID("tx"))
			begin(t, next, "tx", 9)
			if err := next.EndTransaction(ctx, kgo.TryCommit); err != nil {
				t.Fatal(err)
			}
			b = startBroker(t, BrokerOptions{Dir: image(t, dir)})
			if n := len(committed(t, b.Addr(), "out")); n != c.records+2 {
				t.Errorf("then %d records are visible, want %d", n, c.records+2)
			}
			if o := groupOffset(t, b.Addr(), "g"); o != 9 {
				t.Errorf("then the group's offset is %d, want 9", o)
			}
		})
	}
}

func TestTornFiles(t *testing.T) {
	ctx, dir := testContext(t), t.TempDir()
	b := startBroker(t, BrokerOptions{Dir: dir})
	plain := client(t, b.Addr())
	createTopic(t, plain, "out", 2, nil)
	if err := plain.ProduceSync(ctx, &kgo.Record{Topic: "out", Value: []byte("kept")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	cl := client(t, b.Addr(), kgo.TransactionalID("tx"))
	begin(t, cl, "tx", 1)
	dir = image(t, dir)
	cut(t, filepath.Join(dir, "log/partitions/out-0/0.idx"), indexEntryBytes) // of the open transaction's batch
	cut(t, filepath.Join(dir, "log/partitions/out-0/0.dat"), -25)
	cut(t, filepath.Join(dir, "log/pids.log"), -25)
	if err := appendStateLog(filepath.Join(dir, "log/groups.log"), []commitEntry{}); err != nil {
		t.Fatal(err)
	}
	if err := appendFile(filepath.Join(dir, "log/groups.log"), []byte("\x40\x00\x00\x00torn")); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		b := startBroker(t, BrokerOptions{Dir: dir})
		if n := len(committed(t, b.Addr(), "out")); n != 1+2*i {
			t.Fatalf("start %d: %d records are visible, want %d", i, n, 1+2*i)
		}
		if i > 0 {
			if o := groupOffset(t, b.Addr(), "g"); o != int64(10+i-1) {
				t.Fatalf("start %d: the group's offset is %d", i, o)
			}
		}
		id := "tx-" + strconv.Itoa(i)
		cl := client(t, b.Addr(), kgo.TransactionalID(id))
		begin(t, cl, id, int64(10+i))
		if err := cl.EndTransaction(ctx, kgo.TryCommit); err != nil {
			t.Fatal(err)
		}
		dir = image(t, dir)
	}
	// Damage in the middle is no torn tail: silently cutting there would lose what was acknowledged.
	path := filepath.Join(dir, "log/partitions/out-0/0.dat")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[batchHeader+2] ^= 1
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := StartBroker(BrokerOptions{Dir: dir}); err == nil {
		_ = b.Close()
		t.Fatal("started on a damaged log")
	}
}

// TestProducersOutliveTheBroker kills the broker under its producers and starts it again at the same address.
func TestProducersOutliveTheBroker(t *testing.T) {
	ctx, dir := testContext(t), t.TempDir()
	b := startBroker(t, BrokerOptions{Dir: dir})
	_, text, err := net.SplitHostPort(b.Addr())
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	createTopic(t, client(t, b.Addr()), "out", 2, nil)
	plain, tx := client(t, b.Addr(), kgo.StopProducerOnDataLossDetected()), client(t, b.Addr(), kgo.TransactionalID("tx"))
	sent := 0
	produce := func(n int) {
		t.Helper()
		for range n {
			r := &kgo.Record{Topic: "out", Value: fmt.Append(nil, sent)}
			if err := plain.ProduceSync(ctx, r).FirstErr(); err != nil {
				t.Fatal(err)
			}
			sent++
		}
	}
	produce(3)
	_ = b.Close() // keeps the sequences, which are old ones at the kill
	b = startBroker(t, BrokerOptions{Dir: dir, Port: port})
	produce(20)
	begin(t, tx, "tx", 1)
	killed := image(t, dir)
	_ = b.Close()
	b = startBroker(t, BrokerOptions{Dir: killed, Port: port})
	produce(5)
	// Half of this transaction was given up at the kill; its other half must not pass for the whole.
	half := tx.ProduceSync(ctx, &kgo.Record{Topic: "out", Partition: 1, Value: []byte("half")}).FirstErr()
	if half == nil {
		half = tx.EndTransaction(ctx, kgo.TryCommit)
	}
	if half == nil {
		t.Error("a transaction that was given up could be committed")
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	_ = tx.EndTransaction(cancelled, kgo.TryAbort)
	tx.Close()
	again := client(t, b.Addr(), kgo.TransactionalID("tx"))
	if err := again.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := again.ProduceSync(ctx, &kgo.Record{Topic: "out", Value: fmt.Append(nil, sent)}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if err := again.EndTransaction(ctx, kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	rs := committed(t, b.Addr(), "out")
	if len(rs) != sent+1 {
		t.Errorf("%d records, want %d", len(rs), sent+1)
	}
	for i, r := range rs {
		if string(r.Value) != strconv.Itoa(i) {
			t.Fatalf("record %d is %q", i, r.Value)
		}
	}
}
