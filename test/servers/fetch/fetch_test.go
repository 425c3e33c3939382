package fetch

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func openTemp(t *testing.T) Dir {
	t.Helper()
	t.Setenv(CacheVariable, t.TempDir())
	d, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestOnceBuildsOnceForManyCallers(t *testing.T) {
	d := openTemp(t)
	var builds atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { // flock excludes file descriptions, so goroutines stand for processes
			dir, err := d.Once(t.Context(), "thing", "v1", func(_ context.Context, tmp string) error {
				builds.Add(1)
				time.Sleep(50 * time.Millisecond)
				return os.WriteFile(filepath.Join(tmp, "f"), []byte("content"), 0o644)
			})
			if err != nil {
				t.Error(err)
				return
			}
			if b, err := os.ReadFile(filepath.Join(dir, "f")); err != nil || string(b) != "content" {
				t.Errorf("the directory is not complete: %q, %v", b, err)
			}
		})
	}
	wg.Wait()
	if n := builds.Load(); n != 1 {
		t.Fatalf("built %d times, want once", n)
	}
	other, err := d.Once(t.Context(), "thing", "v2", func(context.Context, string) error { builds.Add(1); return nil })
	if err != nil || builds.Load() != 2 {
		t.Fatalf("another key must be built anew: %s, %v", other, err)
	}
}

func TestOnceLeavesNothingOfAFailedOrKilledBuild(t *testing.T) {
	d := openTemp(t)
	killed := d.Path("tmp", "thing@123") // as a killed process leaves it
	if err := os.MkdirAll(killed, 0o755); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	if _, err := d.Once(t.Context(), "thing", "v1", func(context.Context, string) error { return broken }); !errors.Is(err, broken) {
		t.Fatalf("got %v, want the build's error", err)
	}
	for _, pattern := range []string{"thing-*", "tmp/*"} {
		if left, _ := filepath.Glob(d.Path(pattern)); len(left) != 0 {
			t.Fatalf("left behind: %v", left)
		}
	}
	if _, err := d.Once(t.Context(), "thing", "v1", func(context.Context, string) error { return nil }); err != nil {
		t.Fatalf("the next call must try again: %v", err)
	}
}

func TestLockEndsWithItsContext(t *testing.T) {
	d := openTemp(t)
	unlock, err := d.Lock(t.Context(), "l")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
	defer cancel()
	if _, err := d.Lock(ctx, "l"); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v, want the context's end", err)
	}
	unlock()
	again, err := d.TryLock("l")
	if err != nil {
		t.Fatalf("taking a released lock: %v", err)
	}
	again()
}

func TestUntarStaysInItsDirectory(t *testing.T) {
	dir := t.TempDir()
	for name, ok := range map[string]bool{"a/b.txt": true, "../out.txt": false, "/abs.txt": false} {
		archive := filepath.Join(dir, "x.tar.gz")
		f, err := os.Create(archive)
		if err != nil {
			t.Fatal(err)
		}
		z := gzip.NewWriter(f)
		w := tar.NewWriter(z)
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: 2, Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte("hi")); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(w.Close(), z.Close(), f.Close()); err != nil {
			t.Fatal(err)
		}
		into := t.TempDir()
		err = Untar(archive, into)
		if (err == nil) != ok {
			t.Errorf("Untar of %q: %v", name, err)
		}
		if b, _ := os.ReadFile(filepath.Join(into, name)); ok && string(b) != "hi" {
			t.Errorf("content of %q is %q", name, b)
		}
	}
}

func TestRunErrorHoldsCommandAndOutput(t *testing.T) {
	err := Run(t.Context(), t.TempDir(), nil, "sh", "-c", "echo the reason >&2; exit 3")
	if err == nil || !strings.Contains(err.Error(), "the reason") || !strings.Contains(err.Error(), "running sh") {
		t.Fatalf("got %v", err)
	}
}
