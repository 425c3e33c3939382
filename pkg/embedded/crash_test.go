package embedded

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// childDir makes this test binary a broker on the directory named in it, until it is killed.
const childDir = "EMBEDDED_TEST_BROKER_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		b, err := StartBroker(BrokerOptions{Dir: dir})
		if err != nil {
			fmt.Println("error", strings.ReplaceAll(err.Error(), "\n", " "))
			os.Exit(1)
		}
		fmt.Println(b.Addr(), b.Starts())
		select {}
	}
	os.Exit(m.Run())
}

// child is a broker in a process of its own.
type child struct {
	cmd    *exec.Cmd
	addr   string
	starts int
}

func startChild(t *testing.T, dir string) *child {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &child{cmd: cmd}
	t.Cleanup(c.kill)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the broker did not start: %v", err)
	}
	addr, starts, _ := strings.Cut(strings.TrimSpace(line), " ")
	c.addr = addr
	if c.starts, err = strconv.Atoi(starts); err != nil {
		t.Fatalf("the broker did not start: %s", line)
	}
	return c
}

// kill ends it like kill -9.
func (c *child) kill() {
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
}

// copier moves records from "in" to "out", exactly once, in small transactions of which it gives some up on purpose.
type copier struct {
	mu        sync.Mutex
	attempt   int
	confirmed map[string]bool // attempts whose commit was confirmed
	aborted   map[string]bool // attempts that were given up
}

func (c *copier) run(ctx context.Context, addr, txID string) error {
	s, err := kgo.NewGroupTransactSession(
		kgo.SeedBrokers(addr), kgo.TransactionalID(txID), kgo.ConsumerGroup("copier"), kgo.ConsumeTopics("in"),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.MetadataMinAge(20*time.Millisecond), kgo.FetchMaxWait(100*time.Millisecond), kgo.ProducerLinger(0), kgo.DisableClientMetrics(),
	)
	if err != nil {
		return err
	}
	defer s.Close()
	for {
		fs := s.PollRecords(ctx, 7)
		if err := ctx.Err(); err != nil {
			return nil
		}
		if err := fs.Err(); err != nil {
			return err
		}
		if fs.Empty() {
			continue
		}
		if err := s.Begin(); err != nil {
			return err
		}
		c.mu.Lock()
		c.attempt++
		attempt, giveUp := strconv.Itoa(c.attempt), c.attempt%5 == 0
		c.aborted[attempt] = giveUp
		c.mu.Unlock()
		fs.EachRecord(func(r *kgo.Record) {
			s.Produce(ctx, &kgo.Record{
				Topic: "out", Partition: int32(r.Offset % 3), Key: fmt.Appendf(nil, "%d/%d", r.Partition, r.Offset), Value: []byte(attempt),
			}, nil)
		})
		ok, err := s.End(ctx, kgo.TransactionEndTry(!giveUp))
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if ok {
			c.mu.Lock()
			c.confirmed[attempt] = true
			c.mu.Unlock()
		}
	}
}

// check compares what a read_committed reader sees with what was confirmed and with the group's offsets.
func (c *copier) check(t *testing.T, addr string) int {
	t.Helper()
	offsets, err := kadm.NewClient(client(t, addr)).FetchOffsets(testContext(t), "copier")
	if err != nil {
		t.Fatal(err)
	}
	next, total := make(map[string]int64), 0
	offsets.Each(func(o kadm.OffsetResponse) {
		next[strconv.Itoa(int(o.Partition))] = o.At
		total += int(o.At)
	})
	seen, attempts := make(map[string]bool), make(map[string]bool)
	for _, r := range committed(t, addr, "out") {
		key, attempt := string(r.Key), string(r.Value)
		if seen[key] {
			t.Errorf("record %s is there twice", key)
		}
		seen[key], attempts[attempt] = true, true
		if c.aborted[attempt] {
			t.Errorf("record %s of the aborted attempt %s is visible", key, attempt)
		}
		part, off, _ := strings.Cut(key, "/")
		if n, _ := strconv.ParseInt(off, 10, 64); n >= next[part] {
			t.Errorf("record %s is visible, but the group's offset is %d", key, next[part])
		}
	}
	if len(seen) != total {
		t.Errorf("%d records are visible, the group's offsets say %d", len(seen), total)
	}
	for attempt := range c.confirmed {
		if !attempts[attempt] {
			t.Errorf("the confirmed attempt %s is not visible", attempt)
		}
	}
	return total
}

// TestKillInTransactions kills the broker 20 times with -9 while transactions run. Even rounds use a new transactional
// id, as the services do, odd ones the same.
func TestKillInTransactions(t *testing.T) {
	dir := t.TempDir()
	c := &copier{confirmed: make(map[string]bool), aborted: make(map[string]bool)}
	b := startChild(t, dir)
	cl := client(t, b.addr)
	createTopic(t, cl, "in", 2, nil)
	createTopic(t, cl, "out", 3, nil)
	var rs []*kgo.Record
	for i := range 40_000 {
		rs = append(rs, &kgo.Record{Topic: "in", Partition: int32(i % 2), Value: []byte("x")})
	}
	if err := cl.ProduceSync(testContext(t), rs...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	cl.Close()
	before := 0
	for round := range 20 {
		if b.starts != round+1 {
			t.Fatalf("round %d: start %d", round, b.starts)
		}
		txID := "copier-same"
		if round%2 == 0 {
			txID = fmt.Sprintf("copier-%d", b.starts)
		}
		ctx, stop := context.WithCancel(testContext(t))
		done := make(chan error, 1)
		go func() { done <- c.run(ctx, b.addr, txID) }()
		c.waitForProgress(t, done)
		time.Sleep(time.Duration(rand.IntN(150)) * time.Millisecond)
		b.kill()
		stop()
		if err := <-done; err != nil {
			t.Logf("round %d: the copier ended with %v", round, err)
		}
		b = startChild(t, dir)
		now := c.check(t, b.addr)
		if t.Failed() {
			t.Fatalf("round %d", round)
		}
		if now <= before {
			t.Fatalf("round %d: no progress beyond %d", round, before)
		}
		before = now
	}
	t.Logf("%d attempts, %d confirmed, %d records moved", c.attempt, len(c.confirmed), before)
}

// waitForProgress returns once three more attempts have been confirmed.
func (c *copier) waitForProgress(t *testing.T, done chan error) {
	t.Helper()
	count := func() int {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.confirmed)
	}
	for start, deadline := count(), time.Now().Add(30*time.Second); count() < start+3; {
		select {
		case err := <-done:
			t.Fatal(errors.Join(errors.New("the copier ended early"), err))
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatal("no transaction was confirmed within 30 s")
		}
	}
}
