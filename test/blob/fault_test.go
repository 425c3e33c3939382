//go:build servers

package blob

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/url"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"

	"databus/pkg/blob"
	"databus/test/blob/fault"
	"databus/test/servers"
)

// bodies by the name of their size: one part, and three.
var bodies = map[string]int{"small": 100_000, "multipart": 11 << 20}

// through opens the bucket of a URL as it is seen through the proxy. Whether an object goes up in parts is the
// operation's choice here, so that every operation meets both sizes.
func through(t *testing.T, base string, p *fault.Proxy, op fault.Op, more string) blob.Bucket {
	t.Helper()
	from := "1"
	if op == fault.Put {
		from = "1073741824"
	}
	before, _, _ := strings.Cut(base, "&endpoint=")
	b, err := blob.Open(t.Context(), before+"&part_size=5242880&parts_from="+from+"&answer_timeout=700ms&endpoint="+url.QueryEscape(p.URL())+more)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestFaultMatrix: every kind of fault meets every operation of both sizes, with and without CreateOnly. Whoever tries
// again until Put succeeds, or says that the object is there, finds it whole; nothing else is ever visible.
func TestFaultMatrix(t *testing.T) {
	base := bucketURL(t, "faults")
	direct, err := blob.Open(t.Context(), base)
	if err != nil {
		t.Fatal(err)
	}
	watched := watch(t, direct)
	debug.FreeOSMemory()
	began := heap()
	var wg sync.WaitGroup
	var most atomic.Uint64
	var cases, attempts atomic.Int64
	for n, op := range fault.Ops() {
		proxy, err := fault.Start(servers.S3(t).Endpoint)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(proxy.Close)
		m := matrix{t, op, through(t, base, proxy, op, ""), direct, proxy, watched, rand.NewChaCha8([32]byte{7, byte(n)})}
		wg.Go(func() {
			for _, createOnly := range []bool{true, false} {
				for _, kind := range fault.Kinds() {
					for size := range bodies {
						attempts.Add(int64(m.meet(kind, size, createOnly)))
						cases.Add(1)
						most.Store(max(most.Load(), heap()))
					}
				}
			}
		})
	}
	wg.Wait()
	watched.stop(t)
	// Four uploads at a time, with the tests' own two copies of a body and the proxies'.
	const bound = 256 << 20
	used := most.Load() - min(began, most.Load())
	if used > bound {
		t.Errorf("%d MiB were held, more than %d", used>>20, bound>>20)
	}
	t.Logf("%d cases, %d attempts, at most %d MiB", cases.Load(), attempts.Load(), used>>20)
}

// matrix is the row of one operation.
type matrix struct {
	t       *testing.T
	op      fault.Op
	bucket  blob.Bucket // through the proxy
	direct  blob.Bucket
	proxy   *fault.Proxy
	watched *watched
	rng     io.Reader
}

// meet lets a fault meet a Put, tries again as a caller would, and returns how often.
func (m *matrix) meet(kind fault.Kind, size string, createOnly bool) (attempts int) {
	t := m.t
	name := fmt.Sprintf("%s/%s/%s/create=%t", kind, m.op, size, createOnly)
	key := strings.ReplaceAll(name, " ", "-")
	body := make([]byte, bodies[size])
	_, _ = m.rng.Read(body)
	m.watched.expect(key, int64(len(body)))
	m.proxy.Arm(m.op, kind, 1)
	for {
		attempts++
		_, err := m.bucket.Put(t.Context(), key, bytes.NewReader(body), blob.PutOptions{CreateOnly: createOnly})
		if errors.Is(err, blob.ErrExists) && createOnly {
			if _, head := m.direct.Head(t.Context(), key); head == nil {
				break
			}
			err = fmt.Errorf("%w, but it does not", err) // the injected 412
		}
		if err == nil {
			break
		}
		if attempts == 5 {
			t.Errorf("%s: %v", name, err)
			break
		}
	}
	if n := m.proxy.Reached(); n != 1 {
		t.Errorf("%s: the fault met %d requests", name, n)
	}
	m.proxy.Disarm()
	got, _, err := blob.ReadAll(t.Context(), m.direct, key, 1<<30)
	if err != nil || !bytes.Equal(got, body) {
		t.Errorf("%s: %d of %d bytes, %v", name, len(got), len(body), err)
	}
	if _, err := m.bucket.Put(t.Context(), key, strings.NewReader("another"), blob.PutOptions{CreateOnly: true}); !errors.Is(err, blob.ErrExists) {
		t.Errorf("%s: another Put says %v, want ErrExists", name, err)
	}
	return attempts
}

// watched lists the bucket again and again: an object is there in full or not at all.
type watched struct {
	mu    sync.Mutex
	sizes map[string]int64
	bad   []string
	lists int
	end   chan struct{}
	done  chan struct{}
}

func watch(t *testing.T, b blob.Bucket) *watched {
	w := &watched{sizes: map[string]int64{}, end: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(w.done)
		for {
			err := b.List(t.Context(), "", func(info blob.Info) error {
				w.mu.Lock()
				defer w.mu.Unlock()
				if size, ok := w.sizes[info.Key]; !ok || size != info.Size {
					w.bad = append(w.bad, fmt.Sprintf("%s of %d bytes, want %d", info.Key, info.Size, size))
				}
				return nil
			})
			w.mu.Lock()
			w.lists++
			if err != nil && t.Context().Err() == nil {
				w.bad = append(w.bad, err.Error())
			}
			w.mu.Unlock()
			select {
			case <-w.end:
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	}()
	return w
}

func (w *watched) expect(key string, size int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sizes[key] = size
}

func (w *watched) stop(t *testing.T) {
	close(w.end)
	<-w.done
	if len(w.bad) > 0 {
		t.Errorf("the listing showed %q", w.bad[:min(5, len(w.bad))])
	}
	t.Logf("the bucket was listed %d times", w.lists)
}

// A bucket that is out of order for longer than a Put tries again says so, and what was left of the upload is cleared.
func TestLongFaultsEndInAnError(t *testing.T) {
	base := bucketURL(t, "long")
	server := servers.S3(t)
	proxy, err := fault.Start(server.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Close)
	b := through(t, base, proxy, fault.Part, "")
	proxy.Arm(fault.Part, fault.Unavailable, 1000)
	_, err = b.Put(t.Context(), "k", bytes.NewReader(make([]byte, 6<<20)), blob.PutOptions{CreateOnly: true})
	if err == nil || errors.Is(err, blob.ErrExists) || !strings.Contains(err.Error(), "SlowDown") {
		t.Errorf("%v", err)
	}
	if proxy.Reached() < 6 {
		t.Errorf("the fault met %d requests", proxy.Reached())
	}
	bucket := strings.TrimPrefix(strings.Split(base, "?")[0], "s3://")
	left, err := server.Client().ListMultipartUploads(t.Context(), &s3.ListMultipartUploadsInput{Bucket: &bucket})
	if err != nil || len(left.Uploads) != 0 {
		t.Errorf("%d uploads are left, %v", len(left.Uploads), err)
	}
}

// The server is told how to encrypt, by each request that creates an object.
func TestEncryptionIsAskedFor(t *testing.T) {
	base := bucketURL(t, "sse")
	proxy, err := fault.Start(servers.S3(t).Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Close)
	for _, test := range []struct {
		params, algorithm, key string
	}{{"", "", ""}, {"&encryption=AES256", "AES256", ""}, {"&encryption=aws:kms&kms_key=arn:k", "aws:kms", "arn:k"}} {
		for _, op := range []fault.Op{fault.Put, fault.Create} {
			b := through(t, base, proxy, op, test.params)
			// Whether the server has keys is its affair; that it was asked is ours.
			_, _ = b.Put(t.Context(), "k", strings.NewReader("content"), blob.PutOptions{})
			_, h := proxy.Seen(op)
			if h.Get("X-Amz-Server-Side-Encryption") != test.algorithm || h.Get("X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id") != test.key {
				t.Errorf("%s %s: %v", test.params, op, h)
			}
		}
	}
}
