//go:build servers

package archiver

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/blob"
	"databus/services/archiver"
	"databus/test/blob/fault"
	"databus/test/prove"
)

// switched is a bucket that can be exchanged for another way to the same one.
type switched struct{ now atomic.Pointer[blob.Bucket] }

func (s *switched) to(b blob.Bucket) { s.now.Store(&b) }
func (s *switched) get() blob.Bucket { return *s.now.Load() }

func (s *switched) Put(ctx context.Context, key string, body io.Reader, o blob.PutOptions) (blob.Info, error) {
	return s.get().Put(ctx, key, body, o)
}
func (s *switched) Get(ctx context.Context, key string) (io.ReadCloser, blob.Info, error) {
	return s.get().Get(ctx, key)
}
func (s *switched) GetRange(ctx context.Context, key string, offset, length int64) (io.ReadCloser, blob.Info, error) {
	return s.get().GetRange(ctx, key, offset, length)
}
func (s *switched) Head(ctx context.Context, key string) (blob.Info, error) {
	return s.get().Head(ctx, key)
}
func (s *switched) List(ctx context.Context, prefix string, fn func(blob.Info) error) error {
	return s.get().List(ctx, prefix, fn)
}
func (s *switched) Delete(ctx context.Context, key string) error { return s.get().Delete(ctx, key) }
func (s *switched) String() string                               { return s.get().String() }

// TestProveFaults lets every kind of fault meet every step of an upload, of small and large objects, while an archiver
// works on real Kafka and a real S3 server. Each fault is reached, every record is archived once, memory is bounded.
func TestProveFaults(t *testing.T) {
	w := realKafka(t)
	w.sortBy = []string{topic + "=account"}
	proxy, err := fault.Start(w.store.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Close)
	proxied := w.store
	proxied.Endpoint = proxy.URL()
	bucket := &switched{}
	ways := map[fault.Op]blob.Bucket{}
	for _, op := range fault.Ops() {
		from := "1" // everything goes up in parts, or nothing does
		if op == fault.Put {
			from = "1073741824"
		}
		if ways[op], err = blob.Open(t.Context(), proxied.BucketURL(w.bucket)+"&answer_timeout=700ms&part_size=5242880&parts_from="+from); err != nil {
			t.Fatal(err)
		}
	}
	bucket.to(ways[fault.Put])
	cfg := w.config(100_000)
	cfg.Idle = 250 * time.Millisecond
	a, err := archiver.Open(cfg, archiver.Parts{
		Client: w.opts, TransactionalID: "faults", TransactionTimeout: 5 * time.Second, Bucket: bucket, Codec: w.codec, SpoolDir: t.TempDir(),
		Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelError})),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	producer, err := kgo.NewClient(w.opts...)
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()

	// send produces records to one partition and waits until they are archived.
	rng := rand.NewChaCha8([32]byte{9})
	sent := 0
	send := func(what string, n, pad int) {
		t.Helper()
		records, err := w.events(sent, n)
		if err != nil {
			t.Fatal(err)
		}
		sent += n
		for _, r := range records {
			r.Key = []byte("one account")
			if pad > 0 {
				b := make([]byte, pad)
				_, _ = rng.Read(b)
				r.Headers = []kgo.RecordHeader{{Key: "pad", Value: b}}
			}
		}
		if err := producer.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
			t.Fatal(err)
		}
		last := records[len(records)-1]
		for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
			offsets, err := w.admin.FetchOffsets(t.Context(), archiver.Name)
			if at, ok := offsets.Lookup(last.Topic, last.Partition); err == nil && ok && at.At > last.Offset {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%s: not archived: %v", what, err)
			}
		}
	}
	send("the first object", 20, 0)
	debug.FreeOSMemory()
	began, most := heap(), uint64(0)
	n, met := 0, 0
	for _, kind := range fault.Kinds() {
		for _, op := range fault.Ops() {
			for _, large := range []bool{false, true} {
				if n++; !prove.Full() && n%9 != 4 {
					continue
				}
				what := fmt.Sprintf("%s at %s, large %t", kind, op, large)
				bucket.to(ways[op])
				proxy.Arm(op, kind, 1)
				if large {
					send(what, 24, 500_000) // three parts
				} else {
					send(what, 20, 0)
				}
				for end := time.Now().Add(2 * time.Second); proxy.Reached() == 0 && time.Now().Before(end); {
					time.Sleep(10 * time.Millisecond)
				}
				if proxy.Reached() != 1 {
					t.Errorf("%s: the fault met %d requests", what, proxy.Reached())
				}
				figures.mu.Lock()
				figures.faults += proxy.Reached()
				figures.mu.Unlock()
				proxy.Disarm()
				met++
				most = max(most, heap())
			}
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatalf("the archiver ended with %v", err)
	}
	const bound = 256 << 20 // objects of 12 MiB, the test's own copies and the proxy's among them
	if used := most - min(began, most); used > bound {
		t.Errorf("%d MiB were held, more than %d", used>>20, bound>>20)
	} else {
		t.Logf("%d of %d cases, at most %d MiB", met, n, used>>20)
	}
	w.sorted(w.verify("faults"))
}

// heap is what is reachable and what the collector has not freed yet, in bytes.
func heap() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse
}
