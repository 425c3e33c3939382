package blob

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"
)

// tempDir holds bodies on their way; no key reaches it, because no part of a key begins with a dot.
const tempDir = ".incoming"

// tempAge is the age from which a body in tempDir is what a dead process left.
const tempAge = 24 * time.Hour

// FileSystem is a bucket in a directory, one file per object. A body is written and synced aside, then published in
// one step: by a hard link where CreateOnly demands that exactly one caller wins, else by a rename. The file system must
// know hard links. A file cannot be a directory: with the key "a" taken, "a/b" is refused, and the other way round.
type FileSystem struct {
	root *os.Root
}

// OpenFileSystem opens the bucket in dir, which it creates when it is missing, and clears what writers that died
// a day ago or longer left half written.
func OpenFileSystem(dir string) (*FileSystem, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("opening bucket: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("opening bucket: %w", err)
	}
	f := &FileSystem{root}
	if err := root.Mkdir(tempDir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		root.Close()
		return nil, fmt.Errorf("opening bucket: %w", err)
	}
	entries, err := fs.ReadDir(root.FS(), tempDir)
	if err != nil {
		root.Close()
		return nil, fmt.Errorf("opening bucket: %w", err)
	}
	for _, entry := range entries {
		if info, err := entry.Info(); err == nil && time.Since(info.ModTime()) > tempAge {
			_ = root.Remove(path.Join(tempDir, entry.Name())) // the next start tries again
		}
	}
	return f, nil
}

// String names the bucket by its URL.
func (f *FileSystem) String() string { return "file://" + f.root.Name() }

// Put implements Bucket.
func (f *FileSystem) Put(ctx context.Context, key string, body io.Reader, opts PutOptions) (Info, error) {
	if err := CheckKey(key); err != nil {
		return Info{}, err
	}
	info, err := f.put(ctx, key, body, opts)
	if err != nil {
		return Info{}, fmt.Errorf("putting object %q: %w", key, err)
	}
	return info, nil
}

func (f *FileSystem) put(ctx context.Context, key string, body io.Reader, opts PutOptions) (Info, error) {
	if opts.CreateOnly {
		// Spares the copy in the common case of adoption; the link below decides.
		if _, err := f.root.Lstat(key); err == nil {
			return Info{}, ErrExists
		}
	}
	temp := path.Join(tempDir, rand.Text())
	defer f.root.Remove(temp)
	info, err := f.writeTemp(ctx, temp, key, body)
	if err != nil {
		return Info{}, err
	}
	if err := f.makeParents(path.Dir(key)); err != nil {
		return Info{}, err
	}
	if opts.CreateOnly {
		err = f.root.Link(temp, key)
		if errors.Is(err, fs.ErrExist) {
			return Info{}, ErrExists
		}
	} else {
		err = f.root.Rename(temp, key)
	}
	if err != nil {
		return Info{}, fmt.Errorf("publishing: %w", err)
	}
	return info, f.syncDir(path.Dir(key))
}

func (f *FileSystem) writeTemp(ctx context.Context, temp, key string, body io.Reader) (Info, error) {
	file, err := f.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return Info{}, err
	}
	defer file.Close()
	if _, err := io.Copy(file, measure(ctx, body)); err != nil {
		return Info{}, fmt.Errorf("writing: %w", err)
	}
	if err := file.Sync(); err != nil {
		return Info{}, fmt.Errorf("syncing: %w", err)
	}
	stat, err := file.Stat()
	if err != nil {
		return Info{}, err
	}
	return fileInfo(key, stat), file.Close()
}

// makeParents creates the directories above a key and syncs each new one's parent, so that a published object is
// still there after a power cut.
func (f *FileSystem) makeParents(dir string) error {
	if dir == "." {
		return nil
	}
	stat, err := f.root.Stat(dir)
	if err == nil {
		if !stat.IsDir() {
			return fmt.Errorf("publishing: %q is an object, so no key can go on below it", dir)
		}
		return nil
	}
	if errors.Is(err, syscall.ENOTDIR) {
		return fmt.Errorf("publishing: a part of %q is an object, so no key can go on below it", dir)
	}
	if err := f.makeParents(path.Dir(dir)); err != nil {
		return err
	}
	if err := f.root.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("publishing: %w", err)
	}
	return f.syncDir(path.Dir(dir))
}

func (f *FileSystem) syncDir(dir string) error {
	d, err := f.root.Open(dir)
	if err != nil {
		return fmt.Errorf("syncing directory: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("syncing directory: %w", err)
	}
	return nil
}

func (f *FileSystem) open(ctx context.Context, key string) (*os.File, Info, error) {
	if err := CheckKey(key); err != nil {
		return nil, Info{}, err
	}
	if err := ctx.Err(); err != nil {
		return nil, Info{}, fmt.Errorf("reading object %q: %w", key, err)
	}
	file, err := f.root.Open(key)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil, Info{}, fmt.Errorf("reading object %q: %w", key, ErrNotFound)
	}
	if err != nil {
		return nil, Info{}, fmt.Errorf("reading object %q: %w", key, err)
	}
	stat, err := file.Stat()
	if err != nil {
		file.Close()
		return nil, Info{}, fmt.Errorf("reading object %q: %w", key, err)
	}
	if !stat.Mode().IsRegular() {
		file.Close()
		return nil, Info{}, fmt.Errorf("reading object %q: %w", key, ErrNotFound)
	}
	return file, fileInfo(key, stat), nil
}

// Get implements Bucket.
func (f *FileSystem) Get(ctx context.Context, key string) (io.ReadCloser, Info, error) {
	file, info, err := f.open(ctx, key)
	if err != nil {
		return nil, Info{}, err
	}
	return section{&contextReader{ctx, file}, file}, info, nil
}

// GetRange implements Bucket.
func (f *FileSystem) GetRange(ctx context.Context, key string, offset, length int64) (io.ReadCloser, Info, error) {
	file, info, err := f.open(ctx, key)
	if err != nil {
		return nil, Info{}, err
	}
	end, err := cutRange(key, info.Size, offset, length)
	if err != nil {
		file.Close()
		return nil, Info{}, err
	}
	return section{&contextReader{ctx, io.NewSectionReader(file, offset, end-offset)}, file}, info, nil
}

// Head implements Bucket.
func (f *FileSystem) Head(ctx context.Context, key string) (Info, error) {
	file, info, err := f.open(ctx, key)
	if err != nil {
		return Info{}, err
	}
	return info, file.Close()
}

// List implements Bucket.
func (f *FileSystem) List(ctx context.Context, prefix string, fn func(Info) error) error {
	return f.list(ctx, "", prefix, fn)
}

func (f *FileSystem) list(ctx context.Context, dir, prefix string, fn func(Info) error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("listing objects under %q: %w", prefix, err)
	}
	name := "."
	if dir != "" {
		name = strings.TrimSuffix(dir, "/")
	}
	entries, err := fs.ReadDir(f.root.FS(), name)
	if err != nil {
		return fmt.Errorf("listing objects under %q: %w", prefix, err)
	}
	// "a.b" sorts before "a/b", so a directory takes part with its slash.
	keys := make([]string, 0, len(entries))
	for _, entry := range entries {
		switch {
		case strings.HasPrefix(entry.Name(), "."):
		case entry.IsDir():
			keys = append(keys, dir+entry.Name()+"/")
		case entry.Type().IsRegular():
			keys = append(keys, dir+entry.Name())
		}
	}
	slices.Sort(keys)
	for _, key := range keys {
		if strings.HasSuffix(key, "/") {
			if strings.HasPrefix(key, prefix) || strings.HasPrefix(prefix, key) {
				if err := f.list(ctx, key, prefix, fn); err != nil {
					return err
				}
			}
			continue
		}
		if !strings.HasPrefix(key, prefix) {
			continue
		}
		stat, err := f.root.Lstat(key)
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted meanwhile
		}
		if err != nil {
			return fmt.Errorf("listing objects under %q: %w", prefix, err)
		}
		if err := fn(fileInfo(key, stat)); err != nil {
			return err
		}
	}
	return nil
}

// Delete implements Bucket. Empty directories stay: removing one could meet a Put that is about to use it.
func (f *FileSystem) Delete(ctx context.Context, key string) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("deleting object %q: %w", key, err)
	}
	stat, err := f.root.Lstat(key)
	if err == nil && stat.Mode().IsRegular() {
		err = f.root.Remove(key)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
		return fmt.Errorf("deleting object %q: %w", key, err)
	}
	return nil
}

func fileInfo(key string, stat fs.FileInfo) Info {
	etag := fmt.Sprintf("%x-%x", stat.ModTime().UnixNano(), stat.Size())
	if sys, ok := stat.Sys().(*syscall.Stat_t); ok {
		etag = fmt.Sprintf("%x-%s", sys.Ino, etag)
	}
	return Info{Key: key, Size: stat.Size(), ETag: etag, ModTime: stat.ModTime()}
}

type section struct {
	io.Reader
	io.Closer
}
