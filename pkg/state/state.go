package state

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/sstable/block"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// Options say where the state is and whose it is.
type Options struct {
	// Dir is the instance's own directory; it is made if it does not exist.
	Dir string
	// Service and Instance own the directory. Two instances never share one.
	Service, Instance string
	// FS is the file system; nil is the operating system's. Tests pass one that can crash.
	FS vfs.FS
	// Log takes Pebble's messages at level debug and its errors; nil drops them.
	Log *slog.Logger
	// CacheBytes and MemTableBytes size Pebble; 0 means 128 MiB and 8 MiB.
	CacheBytes    int64
	MemTableBytes uint64
	// ReadOnly opens an existing directory for inspection.
	ReadOnly bool
}

// Position says what the rows of a partition stand for.
type Position struct {
	// Logs holds the offset of the first record that is not in the rows, of the changelog and of each topic that holds rows.
	Logs map[string]int64 `json:"logs"`
	// Inputs holds the first offset of each input topic that is not in the rows. A topic of which nothing has been
	// processed is absent.
	Inputs map[string]int64 `json:"inputs"`
	// Partial: a restore was under way. The logs have been read up to Logs, the newest marker named Inputs, and the rows are
	// no committed state.
	Partial bool `json:"partial,omitempty"`
	// Derived says what the derived rows cover; nil where there are none.
	Derived *Derived `json:"derived,omitempty"`
	// At is when the position was written, by this machine's clock.
	At time.Time `json:"at"`
}

// Derived says that derived rows follow from all records of an input, appended within a window before the record at Next.
type Derived struct {
	Next   int64         `json:"next"`
	Window time.Duration `json:"window"` // nanoseconds
}

// DB is the state of one instance.
type DB struct {
	db  *pebble.DB
	dir string
}

const (
	kindPosition = 'p'
	kindRow      = 'r'
)

// Open opens or makes the state of an instance.
func Open(o Options) (*DB, error) {
	fs := o.FS
	if fs == nil {
		fs = vfs.Default
	}
	if err := prepare(fs, o); err != nil {
		return nil, err
	}
	if o.CacheBytes == 0 {
		o.CacheBytes = 128 << 20
	}
	if o.MemTableBytes == 0 {
		// Pebble reserves memtables out of the cache: 32 MiB memtables beside a 64 MiB cache once left a cache of
		// 0 bytes. 16 MiB beside 128 MiB made look-ups four times as cheap; 8 MiB take less memory.
		o.MemTableBytes = 8 << 20
	}
	opts := &pebble.Options{
		FS:           fs,
		CacheSize:    o.CacheBytes,
		MemTableSize: o.MemTableBytes,
		Logger:       logger{o.Log},
		ReadOnly:     o.ReadOnly,
		// Most rows are written again and again: a few tables more are merged at once. Bloom filters keep look-ups cheap.
		L0CompactionThreshold: 8,
		L0StopWritesThreshold: 24,
		// The newest on-disk format of this Pebble version; STATE's format version covers it.
		FormatMajorVersion: pebble.FormatNewest,
	}
	for i := range opts.Levels {
		opts.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
		opts.Levels[i].Compression = func() *block.CompressionProfile { return block.SnappyCompression }
	}
	opts.Levels[0].Compression = func() *block.CompressionProfile { return block.NoCompression } // soon merged into the next one
	db, err := pebble.Open(fs.PathJoin(o.Dir, dbDir), opts)
	if errors.Is(err, os.ErrNotExist) && !o.ReadOnly {
		// The power failed while Pebble began a new manifest: its marker reached the disk, and the file's name did not.
		opts.Logger.Errorf("the state in %s is damaged and made anew: it is restored from the changelog: %v", o.Dir, err)
		if err = unmake(fs, o.Dir); err == nil {
			err = prepare(fs, o)
		}
		if err == nil {
			db, err = pebble.Open(fs.PathJoin(o.Dir, dbDir), opts)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("opening state in %s: %w (another process may hold it; if its files are damaged, delete the "+
			"directory: it is restored from the changelog)", o.Dir, err)
	}
	if err := finish(fs, o); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &DB{db: db, dir: o.Dir}, nil
}

// Close closes the database. Readers and batches must be closed before.
func (d *DB) Close() error {
	if err := d.db.Close(); err != nil {
		return fmt.Errorf("closing state in %s: %w", d.dir, err)
	}
	return nil
}

// Position returns what the rows of a partition stand for, and false where there are none.
func (d *DB) Position(partition int32) (Position, bool, error) {
	v, closer, err := d.db.Get(positionKey(partition))
	if errors.Is(err, pebble.ErrNotFound) {
		return Position{}, false, nil
	}
	if err != nil {
		return Position{}, false, fmt.Errorf("reading position of partition %d in %s: %w", partition, d.dir, err)
	}
	defer closer.Close()
	var p Position
	if err := json.Unmarshal(v, &p); err != nil {
		return Position{}, false, fmt.Errorf("reading position of partition %d in %s: %w (delete the directory: it is restored "+
			"from the changelog)", partition, d.dir, err)
	}
	return p, true, nil
}

// Partitions lists the partitions that have a position, in order.
func (d *DB) Partitions() ([]int32, error) {
	it, err := d.db.NewIter(&pebble.IterOptions{LowerBound: []byte{kindPosition}, UpperBound: []byte{kindPosition + 1}})
	if err != nil {
		return nil, fmt.Errorf("listing partitions in %s: %w", d.dir, err)
	}
	var all []int32
	for it.First(); it.Valid(); it.Next() {
		all = append(all, int32(binary.BigEndian.Uint32(it.Key()[1:])))
	}
	if err := it.Close(); err != nil {
		return nil, fmt.Errorf("listing partitions in %s: %w", d.dir, err)
	}
	return all, nil
}

// DropPartition removes the rows and the position of a partition, atomically.
func (d *DB) DropPartition(partition int32) error {
	b := d.db.NewBatch()
	defer b.Close()
	err := errors.Join(
		b.Delete(positionKey(partition), nil),
		b.DeleteRange(rowPrefix(nil, partition), rowsEnd(partition), nil),
		b.Commit(pebble.NoSync),
	)
	if err != nil {
		return fmt.Errorf("dropping partition %d in %s: %w", partition, d.dir, err)
	}
	return nil
}

// DiskBytes is the size of the database on disk.
func (d *DB) DiskBytes() uint64 { return d.db.Metrics().DiskSpaceUsage() }

func positionKey(partition int32) []byte {
	return binary.BigEndian.AppendUint32([]byte{kindPosition}, uint32(partition))
}

func rowPrefix(dst []byte, partition int32) []byte {
	return binary.BigEndian.AppendUint32(append(dst, kindRow), uint32(partition))
}

// rowsEnd is the first key behind a partition's rows.
func rowsEnd(partition int32) []byte {
	if partition == math.MaxInt32 {
		return []byte{kindRow + 1}
	}
	return rowPrefix(nil, partition+1)
}

// appendRowKey appends the key of a row. Names of stores hold no zero byte, so the first one ends the name.
func appendRowKey(dst []byte, partition int32, store string, key []byte) []byte {
	dst = append(rowPrefix(dst, partition), store...)
	return append(append(dst, 0), key...)
}

// logger hands Pebble's messages on.
type logger struct{ log *slog.Logger }

func (l logger) Infof(format string, args ...any) {
	if l.log != nil {
		l.log.Debug("pebble", "message", fmt.Sprintf(format, args...))
	}
}

func (l logger) Errorf(format string, args ...any) {
	if l.log != nil {
		l.log.Error("pebble", "message", fmt.Sprintf(format, args...))
	}
}

// Fatalf is called where Pebble cannot go on, for example when a background write fails. It must not return.
func (l logger) Fatalf(format string, args ...any) {
	l.Errorf(format, args...)
	panic("pebble: " + fmt.Sprintf(format, args...))
}
