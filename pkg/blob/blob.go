// Package blob is the bucket port: objects with a key, written whole, read whole or by range, listed in order.
//
// Promise: an object is visible in full or not at all; Put with CreateOnly succeeds for exactly one of any number of
// concurrent callers, in this process or any other; List shows every object published before it began, in
// ascending byte order of the keys, and nothing that is still being written. Every implementation (file system, memory,
// S3) passes the suite in package blobtest.
//
// Concurrency: a Bucket may be used by any number of goroutines. A body returned by Get belongs to one.
//
// Failure: an error of Put other than ErrExists leaves the outcome open: the object may have been published. Because a
// request that succeeded without an answer is tried again, ErrExists can also mean one's own earlier attempt. Retries
// are bounded; a context ends every call.
package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

// Errors that callers tell apart, with errors.Is.
var (
	// ErrNotFound: there is no object with this key.
	ErrNotFound = errors.New("object not found")
	// ErrExists: Put with CreateOnly met an object with this key.
	ErrExists = errors.New("object exists already")
	// ErrRange: a range begins behind the object's last byte, or is empty or negative.
	ErrRange = errors.New("range not satisfiable")
	// ErrKey: the key breaks the rules of CheckKey.
	ErrKey = errors.New("invalid object key")
)

// MaxKeyLength is the longest key in bytes, the bucket's own prefix not counted; S3 allows 1024 in all.
const MaxKeyLength = 900

// MaxPutSize is the largest object that Put takes, in bytes: S3 takes 10,000 parts, of 5 MiB at least.
const MaxPutSize = 10_000 * s3MinPart

// Info describes an object.
type Info struct {
	Key  string
	Size int64
	// ETag is an opaque mark of the content, without quotes; it changes when the object is replaced.
	ETag    string
	ModTime time.Time
}

// PutOptions are the choices of a Put; the zero value replaces what is there.
type PutOptions struct {
	// CreateOnly refuses with ErrExists when the key is taken (S3: If-None-Match: *).
	CreateOnly bool
}

// Bucket is the port. Keys follow CheckKey.
type Bucket interface {
	// Put reads body to its end and publishes it under key. Of a body that ends in an error nothing is visible; one that is made
	// while it is read may decide so with its last Read. With ErrExists it may not have been read to its end.
	Put(ctx context.Context, key string, body io.Reader, opts PutOptions) (Info, error)
	// Get opens the whole object. The caller closes the body; an incomplete transfer ends in an error, not in io.EOF.
	Get(ctx context.Context, key string) (io.ReadCloser, Info, error)
	// GetRange opens length bytes from offset on, or all from offset on when length is -1. A range that reaches
	// past the end is cut there. Info.Size is the size of the whole object.
	GetRange(ctx context.Context, key string, offset, length int64) (io.ReadCloser, Info, error)
	// Head describes the object.
	Head(ctx context.Context, key string) (Info, error)
	// List calls fn for every object whose key starts with prefix, in ascending byte order of the keys, and
	// returns the first error of fn as it is.
	List(ctx context.Context, prefix string, fn func(Info) error) error
	// Delete removes the object; removing what is not there is no error.
	Delete(ctx context.Context, key string) error
	// String names the bucket for logs, without secrets.
	String() string
}

// CheckKey refuses with ErrKey what is not a key everywhere: keys are 1 to MaxKeyLength bytes of UTF-8 without control
// characters and backslashes, made of parts between single slashes, each part 1 to 255 bytes and not beginning with a dot.
func CheckKey(key string) error {
	switch {
	case key == "":
		return fmt.Errorf("%w: it is empty", ErrKey)
	case len(key) > MaxKeyLength:
		return fmt.Errorf("%w: %d bytes are more than %d", ErrKey, len(key), MaxKeyLength)
	case !utf8.ValidString(key):
		return fmt.Errorf("%w: %q is not UTF-8", ErrKey, key)
	}
	for _, r := range key {
		if r < 0x20 || r == 0x7f || r == '\\' {
			return fmt.Errorf("%w: %q has a control character or a backslash", ErrKey, key)
		}
	}
	for part := range strings.SplitSeq(key, "/") {
		switch {
		case part == "":
			return fmt.Errorf("%w: %q has an empty part", ErrKey, key)
		case part[0] == '.':
			return fmt.Errorf("%w: %q has a part that begins with a dot", ErrKey, key)
		case len(part) > 255:
			return fmt.Errorf("%w: %q has a part of more than 255 bytes", ErrKey, key)
		}
	}
	return nil
}

// ReadAll returns the whole object, and refuses one larger than limit bytes before reading it.
func ReadAll(ctx context.Context, b Bucket, key string, limit int64) ([]byte, Info, error) {
	body, info, err := b.Get(ctx, key)
	if err != nil {
		return nil, Info{}, err
	}
	defer body.Close()
	if info.Size > limit {
		return nil, info, fmt.Errorf("reading object %q: %d bytes are more than the limit of %d", key, info.Size, limit)
	}
	data := make([]byte, info.Size)
	if _, err := io.ReadFull(body, data); err != nil {
		return nil, info, fmt.Errorf("reading object %q: %w", key, err)
	}
	return data, info, nil
}

// NewReaderAt reads the object by ranges: one GetRange for every ReadAt, so that the caller chooses the size. The
// context ends all reads. It may be used concurrently.
func NewReaderAt(ctx context.Context, b Bucket, info Info) io.ReaderAt {
	return &readerAt{ctx: ctx, bucket: b, info: info}
}

type readerAt struct {
	ctx    context.Context
	bucket Bucket
	info   Info
}

func (r *readerAt) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("%w: offset %d", ErrRange, off)
	}
	if off >= r.info.Size {
		return 0, io.EOF
	}
	want := min(int64(len(p)), r.info.Size-off)
	if want == 0 {
		return 0, nil
	}
	body, info, err := r.bucket.GetRange(r.ctx, r.info.Key, off, want)
	if err != nil {
		return 0, err
	}
	defer body.Close()
	if info.ETag != r.info.ETag || info.Size != r.info.Size {
		return 0, fmt.Errorf("reading object %q: it was replaced while it was being read", r.info.Key)
	}
	n, err := io.ReadFull(body, p[:want])
	if err != nil {
		return n, fmt.Errorf("reading object %q at %d: %w", r.info.Key, off, err)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// contextReader ends a long copy when its context ends.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r *contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// measured counts what is read of a body, and ends where it gets too large.
type measured struct {
	contextReader
	size int64
}

func measure(ctx context.Context, body io.Reader) *measured {
	return &measured{contextReader: contextReader{ctx, body}}
}

func (m *measured) Read(p []byte) (int, error) {
	n, err := m.contextReader.Read(p)
	if m.size += int64(n); m.size > MaxPutSize {
		return n, fmt.Errorf("the body has more than the %d bytes that a bucket takes: cut smaller objects", int64(MaxPutSize))
	}
	return n, err
}

// cutRange gives the end of a range in an object of the given size.
func cutRange(key string, size, offset, length int64) (end int64, err error) {
	if offset < 0 || length < -1 || length == 0 || offset >= size {
		return 0, fmt.Errorf("reading object %q of %d bytes, %d bytes from %d on: %w", key, size, length, offset, ErrRange)
	}
	if length == -1 || length > size-offset {
		return size, nil
	}
	return offset + length, nil
}
