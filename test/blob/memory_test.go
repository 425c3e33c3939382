//go:build servers

package blob

import (
	"fmt"
	"io"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"databus/pkg/blob"
)

// pattern is a body that takes no memory, and notes how much of it does.
type pattern struct{ at, size int64 }

func (p *pattern) Read(b []byte) (int, error) {
	if p.at >= p.size {
		return 0, io.EOF
	}
	n := min(int64(len(b)), p.size-p.at)
	for i := range b[:n] {
		b[i] = byte((p.at + int64(i)) * 2654435761 >> 16)
	}
	p.at += n
	return int(n), nil
}

func (p *pattern) Seek(offset int64, whence int) (int64, error) {
	p.at = map[int]int64{io.SeekStart: offset, io.SeekCurrent: p.at + offset, io.SeekEnd: p.size + offset}[whence]
	return p.at, nil
}

// An upload in parts holds a few of them, whatever the object's size; it is read back whole and verified.
func TestUploadMemoryIsBounded(t *testing.T) {
	b, err := blob.Open(t.Context(), bucketURL(t, "memory")+"&part_size=5242880")
	if err != nil {
		t.Fatal(err)
	}
	const size, bound = 300 << 20, 48 << 20
	before := heap()
	var most atomic.Uint64
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			most.Store(max(most.Load(), heap()))
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	if _, err := b.Put(t.Context(), "large", &pattern{size: size}, blob.PutOptions{CreateOnly: true}); err != nil {
		t.Fatal(err)
	}
	close(stop)
	<-done
	if used := most.Load() - min(before, most.Load()); used > bound {
		t.Errorf("an upload of %d MiB held %d MiB, more than %d", size>>20, used>>20, bound>>20)
	} else {
		t.Logf("an upload of %d MiB held %d MiB", size>>20, used>>20)
	}
	body, info, err := b.Get(t.Context(), "large")
	if err != nil || info.Size != size {
		t.Fatal(info, err)
	}
	defer body.Close()
	want := &pattern{size: size}
	got, expected := make([]byte, 1<<20), make([]byte, 1<<20)
	for at := int64(0); at < size; at += 1 << 20 {
		if _, err := io.ReadFull(body, got); err != nil {
			t.Fatal(err)
		}
		io.ReadFull(want, expected)
		if string(got) != string(expected) {
			t.Fatalf("the object differs behind byte %d", at)
		}
	}
	if n, err := body.Read(got); n != 0 || err != io.EOF {
		t.Errorf("at the end: %s", fmt.Sprint(n, err))
	}
}

// heap is what is reachable and what the collector has not freed yet, in bytes.
func heap() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse
}
