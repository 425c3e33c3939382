package blob

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"
)

// Memory is a bucket in this process's memory: for tests and demonstrations, gone with the process.
type Memory struct {
	mu      sync.RWMutex
	objects map[string]memoryObject
}

type memoryObject struct {
	data []byte // never changed once stored
	info Info
}

// NewMemory returns an empty bucket.
func NewMemory() *Memory { return &Memory{objects: map[string]memoryObject{}} }

func (m *Memory) String() string { return "mem://" }

// Put implements Bucket.
func (m *Memory) Put(ctx context.Context, key string, body io.Reader, opts PutOptions) (Info, error) {
	if err := CheckKey(key); err != nil {
		return Info{}, err
	}
	data, err := io.ReadAll(measure(ctx, body))
	if err != nil {
		return Info{}, fmt.Errorf("putting object %q: %w", key, err)
	}
	sum := sha256.Sum256(data)
	info := Info{Key: key, Size: int64(len(data)), ETag: hex.EncodeToString(sum[:16]), ModTime: time.Now()}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, taken := m.objects[key]; taken && opts.CreateOnly {
		return Info{}, fmt.Errorf("putting object %q: %w", key, ErrExists)
	}
	m.objects[key] = memoryObject{data, info}
	return info, nil
}

func (m *Memory) find(ctx context.Context, key string) (memoryObject, error) {
	if err := CheckKey(key); err != nil {
		return memoryObject{}, err
	}
	if err := ctx.Err(); err != nil {
		return memoryObject{}, fmt.Errorf("reading object %q: %w", key, err)
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	object, ok := m.objects[key]
	if !ok {
		return memoryObject{}, fmt.Errorf("reading object %q: %w", key, ErrNotFound)
	}
	return object, nil
}

// Get implements Bucket.
func (m *Memory) Get(ctx context.Context, key string) (io.ReadCloser, Info, error) {
	object, err := m.find(ctx, key)
	if err != nil {
		return nil, Info{}, err
	}
	return io.NopCloser(bytes.NewReader(object.data)), object.info, nil
}

// GetRange implements Bucket.
func (m *Memory) GetRange(ctx context.Context, key string, offset, length int64) (io.ReadCloser, Info, error) {
	object, err := m.find(ctx, key)
	if err != nil {
		return nil, Info{}, err
	}
	end, err := cutRange(key, object.info.Size, offset, length)
	if err != nil {
		return nil, Info{}, err
	}
	return io.NopCloser(bytes.NewReader(object.data[offset:end])), object.info, nil
}

// Head implements Bucket.
func (m *Memory) Head(ctx context.Context, key string) (Info, error) {
	object, err := m.find(ctx, key)
	return object.info, err
}

// List implements Bucket. It shows the objects of one moment.
func (m *Memory) List(ctx context.Context, prefix string, fn func(Info) error) error {
	m.mu.RLock()
	var found []Info
	for key, object := range m.objects {
		if strings.HasPrefix(key, prefix) {
			found = append(found, object.info)
		}
	}
	m.mu.RUnlock()
	slices.SortFunc(found, func(a, b Info) int { return strings.Compare(a.Key, b.Key) })
	for _, info := range found {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("listing objects under %q: %w", prefix, err)
		}
		if err := fn(info); err != nil {
			return err
		}
	}
	return nil
}

// Delete implements Bucket.
func (m *Memory) Delete(ctx context.Context, key string) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("deleting object %q: %w", key, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.objects, key)
	return nil
}
