package identity

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// OpenPebble opens the embedded store in a directory, or in memory when dir is empty. One process at a time can have it
// open, and opens it once.
func OpenPebble(dir string) (Stores, error) {
	opts := &pebble.Options{Logger: quiet{}, MemTableSize: 16 << 20}
	name := "pebble://" + dir
	if dir == "" {
		opts.FS, name = vfs.NewMem(), "mem://"
	}
	opts.Cache = pebble.NewCache(128 << 20) // Pebble takes the memtables out of it
	defer opts.Cache.Unref()
	db, err := pebble.Open(dir, opts)
	if err != nil {
		return nil, fmt.Errorf("opening identity store in %s: %w; only one process can have it open", dir, err)
	}
	p := &pebbleStores{name: name, db: db, keyspaces: map[string]bool{}, stores: map[string]*pebbleStore{}}
	if err := p.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("opening identity store in %s: %w", dir, err), db.Close())
	}
	return p, nil
}

// quiet drops Pebble's chatter; its fatal errors end the process anyway.
type quiet struct{}

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}
func (quiet) Fatalf(format string, args ...any) {
	panic(fmt.Sprintf("identity store: "+format, args...))
}

// pebbleStores is one database for all keyspaces. Keys:
//
//	0x00, keyspace                                 it was created
//	keyspace, 0x00, table's number, key columns    a row: the other columns
//
// Key columns are 16 bytes each, except for accounts, which end in a zero byte, so byte order is the order of Cassandra's
// clustering columns.
type pebbleStores struct {
	name string
	db   *pebble.DB

	mu        sync.RWMutex // keyspaces; held for writing by Create and Drop, for reading by everything else
	keyspaces map[string]bool
	closed    bool
	stores    map[string]*pebbleStore // one a keyspace, because its lock orders the writers
}

func (p *pebbleStores) load() error {
	it, err := p.db.NewIter(&pebble.IterOptions{LowerBound: []byte{0}, UpperBound: []byte{1}})
	if err != nil {
		return err
	}
	for it.First(); it.Valid(); it.Next() {
		p.keyspaces[string(it.Key()[1:])] = true
	}
	return errors.Join(it.Error(), it.Close())
}

func (p *pebbleStores) Keyspace(name string) (Store, error) {
	if err := checkKeyspace(name); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stores[name] == nil {
		p.stores[name] = &pebbleStore{stores: p, name: name}
	}
	return p.stores[name], nil
}

func (p *pebbleStores) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	p.closed = true
	return p.db.Close()
}

func (p *pebbleStores) String() string { return p.name }

var errStoreClosed = errors.New("identity store is closed")

type pebbleStore struct {
	stores *pebbleStores
	name   string
	apply  sync.Mutex // makes reading the stored version and writing one step
}

func (s *pebbleStore) Keyspace() string { return s.name }

// use is called around every access to the keyspace; the caller calls the returned function when done.
func (s *pebbleStore) use(ctx context.Context) (func(), error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.stores.mu.RLock()
	switch {
	case s.stores.closed:
		s.stores.mu.RUnlock()
		return nil, errStoreClosed
	case !s.stores.keyspaces[s.name]:
		s.stores.mu.RUnlock()
		return nil, fmt.Errorf("keyspace %s: %w", s.name, ErrNoKeyspace)
	}
	return s.stores.mu.RUnlock, nil
}

func (s *pebbleStore) Create(ctx context.Context) error { return s.define(ctx, true) }
func (s *pebbleStore) Drop(ctx context.Context) error   { return s.define(ctx, false) }

func (s *pebbleStore) define(ctx context.Context, exists bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.stores.mu.Lock()
	defer s.stores.mu.Unlock()
	if s.stores.closed {
		return errStoreClosed
	}
	if s.stores.keyspaces[s.name] == exists {
		return nil
	}
	mark := append([]byte{0}, s.name...)
	b := s.stores.db.NewBatch()
	defer b.Close()
	var err error
	if exists {
		err = b.Set(mark, nil, nil)
	} else {
		err = errors.Join(b.Delete(mark, nil), b.DeleteRange(append([]byte(s.name), 0), append([]byte(s.name), 1), nil))
	}
	if err == nil {
		err = b.Commit(pebble.Sync)
	}
	if err != nil {
		return fmt.Errorf("defining keyspace %s: %w", s.name, err)
	}
	if exists {
		s.stores.keyspaces[s.name] = true
	} else {
		delete(s.stores.keyspaces, s.name)
	}
	return nil
}

// number is a table's in keys; it never changes.
func (t Table) number() byte {
	switch t.Name {
	case ByPerson.Name:
		return 1
	case ByFCID.Name:
		return 2
	default:
		return 0
	}
}

// prefix begins the keys of a table.
func (s *pebbleStore) prefix(t Table) []byte { return append([]byte(s.name), 0, t.number()) }

// key of a row, as far as n key columns.
func (s *pebbleStore) key(t Table, r *Row, n int) []byte {
	b := s.prefix(t)
	for _, c := range t.Key()[:n] {
		b = append(b, c.Value(r)...)
		if c.Type == Text {
			b = append(b, 0)
		}
	}
	return b
}

// encode writes the columns outside of the key, each behind its length plus one; zero is null.
func (t Table) encode(r *Row) []byte {
	var b []byte
	for _, c := range t.Columns[len(t.Key()):] {
		v := c.Value(r)
		if v == nil {
			b = append(b, 0)
			continue
		}
		b = binary.AppendUvarint(b, uint64(len(v))+1)
		b = append(b, v...)
	}
	return b
}

// decode reads a row from its key behind the prefix and its value.
func (t Table) decode(key, value []byte) (Row, error) {
	bad := fmt.Errorf("reading %s: %w: it cannot be decoded", t.Name, ErrBadRow)
	values := make([][]byte, 0, len(t.Columns))
	for _, c := range t.Key() {
		n := 16
		if c.Type == Text {
			n = bytes.IndexByte(key, 0)
		}
		if n < 0 || n > len(key) {
			return Row{}, bad
		}
		values = append(values, key[:n])
		key = key[n:]
		if c.Type == Text {
			key = key[1:]
		}
	}
	for range t.Columns[len(values):] {
		n, size := binary.Uvarint(value)
		if size <= 0 || n > uint64(len(value)-size)+1 {
			return Row{}, bad
		}
		value = value[size:]
		if n == 0 {
			values = append(values, nil)
			continue
		}
		values = append(values, value[:n-1])
		value = value[n-1:]
	}
	if len(key) != 0 || len(value) != 0 {
		return Row{}, bad
	}
	return t.row(values)
}

func (s *pebbleStore) Get(ctx context.Context, account, recordKey string) (Row, bool, error) {
	done, err := s.use(ctx)
	if err != nil {
		return Row{}, false, fmt.Errorf("reading a record: %w", err)
	}
	defer done()
	return s.get(&Row{Account: account, RecordKey: recordKey})
}

func (s *pebbleStore) get(r *Row) (Row, bool, error) {
	key := s.key(ByKey, r, 2)
	value, closer, err := s.stores.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return Row{}, false, nil
	}
	if err != nil {
		return Row{}, false, fmt.Errorf("reading a record: %w", err)
	}
	defer closer.Close()
	row, err := ByKey.decode(key[len(s.prefix(ByKey)):], value)
	return row, err == nil, err
}

func (s *pebbleStore) ByPerson(ctx context.Context, account, personID string, limit int) ([]Row, error) {
	return s.list(ctx, ByPerson, &Row{Account: account, PersonID: personID}, limit)
}

func (s *pebbleStore) ByFCID(ctx context.Context, fcid string, limit int) ([]Row, error) {
	return s.list(ctx, ByFCID, &Row{FCID: fcid}, limit)
}

func (s *pebbleStore) list(ctx context.Context, t Table, r *Row, limit int) ([]Row, error) {
	for _, c := range t.Columns[:len(t.Partition)] {
		if c.Value(r) == nil {
			return nil, nil // nobody has such an id
		}
	}
	var rows []Row
	err := s.iterate(ctx, t, s.key(t, r, len(t.Partition)), func(row *Row) (bool, error) {
		if len(rows) == limit {
			return false, nil
		}
		rows = append(rows, *row)
		return true, nil
	})
	return rows, err
}

func (s *pebbleStore) Scan(ctx context.Context, t Table, fn func(*Row) error) error {
	return s.iterate(ctx, t, s.prefix(t), func(r *Row) (bool, error) { return true, fn(r) })
}

// iterate calls fn for the rows with a prefix until it returns false. The iterator sees one moment's state, so writers
// need not wait.
func (s *pebbleStore) iterate(ctx context.Context, t Table, prefix []byte, fn func(*Row) (bool, error)) (err error) {
	done, err := s.use(ctx)
	if err != nil {
		return fmt.Errorf("reading %s: %w", t.Name, err)
	}
	defer done()
	upper := bytes.Clone(prefix)
	for i := len(upper) - 1; ; i-- {
		if upper[i]++; upper[i] != 0 {
			upper = upper[:i+1]
			break
		}
	}
	it, err := s.stores.db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: upper})
	if err != nil {
		return fmt.Errorf("reading %s: %w", t.Name, err)
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	skip := len(s.prefix(t))
	for it.First(); it.Valid(); it.Next() {
		if err := ctx.Err(); err != nil {
			return err
		}
		value, err := it.ValueAndErr()
		if err != nil {
			return fmt.Errorf("reading %s: %w", t.Name, err)
		}
		row, err := t.decode(it.Key()[skip:], value)
		if err != nil {
			return err
		}
		if more, err := fn(&row); err != nil || !more {
			return err
		}
	}
	return it.Error()
}

// Apply is one batch, synced: all changes are durable or none is.
func (s *pebbleStore) Apply(ctx context.Context, changes []Change) error {
	if len(changes) == 0 {
		return nil
	}
	done, err := s.use(ctx)
	if err != nil {
		return fmt.Errorf("applying changes: %w", err)
	}
	defer done()
	b := s.stores.db.NewBatch()
	defer b.Close()
	if err := s.write(b, changes); err != nil {
		return fmt.Errorf("applying changes: %w", err)
	}
	// Waiting for the disk outside of the lock lets appliers of other partitions share one sync.
	if err := b.SyncWait(); err != nil {
		return fmt.Errorf("applying changes: %w", err)
	}
	return nil
}

func (s *pebbleStore) write(b *pebble.Batch, changes []Change) error {
	s.apply.Lock()
	defer s.apply.Unlock()
	latest := map[[2]string]Row{} // versions of records that this batch has changed already
	for i := range changes {
		row := &changes[i].New
		if err := row.check(); err != nil {
			return err
		}
		id := [2]string{row.Account, row.RecordKey}
		stored, ok := latest[id]
		if !ok {
			var err error
			if stored, _, err = s.get(row); err != nil {
				return err
			}
		}
		shreds := row.Version == stored.Version && row.Deleted && !stored.Deleted
		if row.Version <= stored.Version && !shreds && !changes[i].Remove {
			continue
		}
		if !changes[i].Remove {
			latest[id] = *row
		}
		for _, t := range Tables() {
			for _, left := range changes[i].Left {
				if t.place == nil || t.place(left) == "" || t.place(left) == t.place(row.Place()) {
					continue
				}
				if changes[i].Remove && t.place(left) == t.place(stored.Place()) {
					continue // a later version stands there now
				}
				gone := Row{Account: row.Account, RecordKey: row.RecordKey, FCID: left.FCID, PersonID: left.PersonID}
				if err := b.Delete(s.key(t, &gone, len(t.Key())), nil); err != nil {
					return err
				}
			}
			if t.Holds(row) && !changes[i].Remove {
				if err := b.Set(s.key(t, row, len(t.Key())), t.encode(row), nil); err != nil {
					return err
				}
			}
		}
	}
	if b.Empty() {
		return nil
	}
	return s.stores.db.ApplyNoSyncWait(b, pebble.Sync)
}
