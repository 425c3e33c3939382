// Package fetch keeps what the tests download: server distributions, jars, Python packages, compiled tools.
//
// Promise: Dir.Once returns a directory that is complete, however many processes ask for it at the same time and
// whichever of them is killed half-way: one process builds under a file lock, in a temporary directory, and renames the
// result into place. What is in place is never changed; another pin is another directory.
//
// Concurrency: everything here may be called from several goroutines and several processes.
//
// Failure: errors carry the end of the failing tool's output and the next step for a person. Nothing half-built stays
// in place; the next call tries again.
package fetch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// CacheVariable names the environment variable that moves the cache.
const CacheVariable = "DATABUS_CACHE"

// lockPoll is how often a waiting process asks for a lock again; flock itself cannot be given up when a context ends.
const lockPoll = 100 * time.Millisecond

// Dir is a cache directory outside the checkout.
type Dir struct{ root string }

// Open returns the cache directory, created if need be: $DATABUS_CACHE, or "databus" in the user's cache directory.
func Open() (Dir, error) {
	root := os.Getenv(CacheVariable)
	if root == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return Dir{}, fmt.Errorf("finding the cache directory: %w; set %s to a directory", err, CacheVariable)
		}
		root = filepath.Join(base, "databus")
	}
	root, err := filepath.Abs(root)
	if err != nil {
		return Dir{}, fmt.Errorf("resolving the cache directory: %w", err)
	}
	for _, sub := range []string{"locks", "tmp", "run"} {
		if err := os.MkdirAll(filepath.Join(root, sub), 0o755); err != nil {
			return Dir{}, fmt.Errorf("creating the cache directory: %w; set %s to a directory you may write", err, CacheVariable)
		}
	}
	return Dir{root: root}, nil
}

// Path joins elements to the cache directory's absolute path.
func (d Dir) Path(elem ...string) string {
	return filepath.Join(append([]string{d.root}, elem...)...)
}

// Once returns the directory NAME-HASH(key), and calls build to fill it if it is not there yet. build gets a temporary
// directory on the same file system. The key must hold everything the content depends on.
func (d Dir) Once(ctx context.Context, name, key string, build func(ctx context.Context, tmp string) error) (string, error) {
	sum := sha256.Sum256([]byte(key))
	final := d.Path(name + "-" + hex.EncodeToString(sum[:6]))
	if exists(final) {
		return final, nil
	}
	unlock, err := d.Lock(ctx, name)
	if err != nil {
		return "", err
	}
	defer unlock()
	if exists(final) {
		return final, nil
	}
	// Only the holder of the lock writes tmp/NAME@*: whatever is there belongs to a process that was killed.
	if left, err := filepath.Glob(d.Path("tmp", name+"@*")); err == nil {
		for _, dir := range left {
			_ = os.RemoveAll(dir)
		}
	}
	tmp, err := os.MkdirTemp(d.Path("tmp"), name+"@")
	if err != nil {
		return "", fmt.Errorf("creating a temporary directory for %s: %w", name, err)
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	start := time.Now()
	slog.Info("preparing "+name+", once; kept for later runs", "dir", final)
	if err := build(ctx, tmp); err != nil {
		return "", fmt.Errorf("preparing %s: %w", name, err)
	}
	if err := os.Rename(tmp, final); err != nil {
		return "", fmt.Errorf("publishing %s: %w", name, err)
	}
	slog.Info("prepared "+name, "seconds", int(time.Since(start).Seconds()))
	return final, nil
}

// Lock waits for the exclusive lock NAME, shared by all processes that use this cache, and returns what releases it. The
// kernel releases it when the process dies.
func (d Dir) Lock(ctx context.Context, name string) (unlock func(), err error) {
	waiting := false
	for {
		unlock, err := d.TryLock(name)
		if err == nil {
			return unlock, nil
		}
		if !errors.Is(err, ErrLocked) {
			return nil, err
		}
		if !waiting {
			waiting = true
			slog.Info("waiting for another process that prepares " + name)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for the lock %s: %w", d.lockFile(name), ctx.Err())
		case <-time.After(lockPoll):
		}
	}
}

// ErrLocked says that another process, or another part of this one, holds the lock.
var ErrLocked = errors.New("locked by another process")

// TryLock takes the exclusive lock NAME or returns ErrLocked at once.
func (d Dir) TryLock(name string) (unlock func(), err error) {
	f, err := os.OpenFile(d.lockFile(name), os.O_CREATE|os.O_RDWR, 0o644) // close-on-exec: no child inherits the lock
	if err != nil {
		return nil, fmt.Errorf("opening lock: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, ErrLocked
		}
		return nil, fmt.Errorf("locking %s: %w", d.lockFile(name), err)
	}
	return func() { _ = f.Close() }, nil
}

func (d Dir) lockFile(name string) string { return d.Path("locks", name+".lock") }

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Tail returns the last n lines of a tool's output, at most 8 KiB, each indented, for use in an error.
func Tail(out []byte, n int) string {
	const limit = 8 << 10
	if len(out) > limit {
		out = out[len(out)-limit:]
	}
	lines := strings.Split(strings.TrimRight(string(out), "\n"), "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return "    " + strings.Join(lines, "\n    ")
}
