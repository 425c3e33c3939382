package graph

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/edsrzf/mmap-go"

	"databus/pkg/blob"
	"databus/schemas/event"
)

// OpenFile maps a graph file into memory and checks it. Look-ups read the file's pages through the system's cache, so a
// graph takes no memory of its own. The mapping ends when nobody holds the graph any more. The file may be removed
// meanwhile, but must never be written to: what reads a page that is gone dies.
func OpenFile(path string) (*Graph, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening graph: %w", err)
	}
	defer f.Close() // the mapping outlives it
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("opening graph: %w", err)
	}
	if info.Size() < headerSize+footerSize || info.Size() > MaxFile { // nothing cannot be mapped
		return nil, fmt.Errorf("opening graph %s: %w: %d bytes", path, ErrCorrupt, info.Size())
	}
	m, err := mmap.Map(f, mmap.RDONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("opening graph: mapping %s: %w", path, err)
	}
	g, err := Open(m)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), m.Unmap())
	}
	runtime.AddCleanup(g, func(m mmap.MMap) { _ = m.Unmap() }, m) // nothing can be done about a mapping that stays
	return g, nil
}

const (
	graphSuffix = ".graph"
	partSuffix  = ".part"
	// maxCached is how many graph files a Cache keeps: a live one, a new one and one to roll back to.
	maxCached = 3
	// partAge is how old the file of a transfer is that nobody goes on with.
	partAge = 24 * time.Hour
)

// Cache keeps files of graphs from the bucket in a directory, under the SHA-256 of their content, so that a restart
// transfers nothing. Several processes may share a directory. The files that were used last stay, others go: a graph
// that is open keeps its pages all the same.
type Cache struct {
	bucket blob.Bucket
	dir    string
	log    *slog.Logger
	mu     sync.Mutex // one transfer at a time: graphs can be large
}

// NewCache returns a cache in a directory, which is made when it is needed. The log may be nil.
func NewCache(bucket blob.Bucket, dir string, log *slog.Logger) *Cache {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Cache{bucket: bucket, dir: dir, log: log}
}

// Graph opens a version's graph, from the directory or else from the bucket, and makes sure that it is the one that was
// announced. A file in the directory that is damaged is fetched anew; an object that is damaged is ErrCorrupt.
func (c *Cache) Graph(ctx context.Context, v *event.GraphVersion) (*Graph, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	path := filepath.Join(c.dir, hex.EncodeToString(v.Sha256)+graphSuffix)
	g, err := c.open(path, v)
	switch {
	case err == nil:
		return g, nil
	case errors.Is(err, ErrCorrupt):
		c.log.Warn("graph file in the cache is damaged; it is fetched anew", "version", v.Version, "file", path, "error", err)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("loading graph %s: %w", v.Version, err)
	}
	if err := c.fetch(ctx, v, path); err != nil {
		return nil, fmt.Errorf("loading graph %s: %w", v.Version, err)
	}
	if g, err = c.open(path, v); err != nil {
		return nil, fmt.Errorf("loading graph %s: %w", v.Version, err)
	}
	if err := c.prune(filepath.Base(path)); err != nil {
		c.log.Warn("graph files that nobody uses could not be removed", "directory", c.dir, "error", err)
	}
	return g, nil
}

// open opens a file that must have the announced content, and notes its use.
func (c *Cache) open(path string, v *event.GraphVersion) (*Graph, error) {
	g, err := OpenFile(path)
	if err != nil {
		return nil, err
	}
	if string(g.sum[:]) != string(v.Sha256) {
		return nil, fmt.Errorf("%s: %w: it is not the one that was announced", path, ErrCorrupt)
	}
	now := time.Now()
	if err := os.Chtimes(path, now, now); err != nil && !errors.Is(err, fs.ErrNotExist) { // another process may have removed it
		return nil, fmt.Errorf("noting the use of a graph file: %w", err)
	}
	return g, nil
}

// fetch transfers a version's object into a file. The file appears when it is whole and the one that was announced.
func (c *Cache) fetch(ctx context.Context, v *event.GraphVersion, path string) (err error) {
	body, info, err := c.bucket.Get(ctx, v.Object)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	if info.Size > MaxFile {
		return fmt.Errorf("%w: object %s has %d bytes", ErrCorrupt, v.Object, info.Size)
	}
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return fmt.Errorf("making the directory of graph files: %w", err)
	}
	part, err := os.CreateTemp(c.dir, "*"+partSuffix)
	if err != nil {
		return fmt.Errorf("making a graph file: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, part.Close(), os.Remove(part.Name()))
		}
	}()
	sum := sha256.New()
	if _, err := io.Copy(io.MultiWriter(part, sum), body); err != nil {
		return fmt.Errorf("fetching object %s: %w", v.Object, err)
	}
	if string(sum.Sum(nil)) != string(v.Sha256) {
		return fmt.Errorf("%w: object %s is not the one that was announced", ErrCorrupt, v.Object)
	}
	// Without a sync a power failure could leave a whole file of zeros, which would only be fetched anew.
	if err := os.Rename(part.Name(), path); err != nil {
		return fmt.Errorf("naming a graph file: %w", err)
	}
	if err := part.Close(); err != nil {
		c.log.Warn("closing a graph file", "file", path, "error", err) // it is checked when it is opened
	}
	return nil
}

// prune removes all files but the one that was just opened and those that were used last before it, and the rests of
// transfers that were broken off.
func (c *Cache) prune(opened string) error {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return err
	}
	var graphs []fs.FileInfo
	var errs []error
	remove := func(name string) {
		if err := os.Remove(filepath.Join(c.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	for _, e := range entries {
		info, err := e.Info()
		switch {
		case err != nil: // gone
		case strings.HasSuffix(e.Name(), partSuffix) && time.Since(info.ModTime()) > partAge:
			remove(e.Name())
		case strings.HasSuffix(e.Name(), graphSuffix) && e.Name() != opened:
			graphs = append(graphs, info)
		}
	}
	slices.SortFunc(graphs, func(a, b fs.FileInfo) int {
		return cmp.Or(b.ModTime().Compare(a.ModTime()), cmp.Compare(a.Name(), b.Name()))
	})
	for _, g := range graphs[min(len(graphs), maxCached-1):] {
		remove(g.Name())
	}
	return errors.Join(errs...)
}
