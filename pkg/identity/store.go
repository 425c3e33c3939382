package identity

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// Errors of a store that callers tell apart.
var (
	// ErrNoKeyspace: the database version's keyspace was not created, or was dropped.
	ErrNoKeyspace = errors.New("keyspace does not exist")
	// ErrKeyspaceName: the name cannot be a keyspace everywhere.
	ErrKeyspaceName = errors.New("keyspace name is not valid: 1 to 48 of a-z, 0-9 and _, beginning with a letter")
)

// Change replaces what a store has of one record.
type Change struct {
	New Row
	// Left lists the places, other than New's, that rows of this record may occupy: the stored row's and those of
	// every version folded into this change. The latter matter after a crash: an earlier attempt may have written
	// one of them and not reached records_by_key.
	Left []Place
	// Remove leaves records_by_key and New's own rows alone: only what is Left is deleted, as of New.Version.
	Remove bool
}

// Store is one database version: three tables in a keyspace. The suite in identitytest holds for every implementation.
type Store interface {
	// Keyspace is the name.
	Keyspace() string
	// Create makes keyspace and tables; those that exist are left as they are.
	Create(ctx context.Context) error
	// Drop removes keyspace, tables and rows; a missing keyspace is no error.
	Drop(ctx context.Context) error

	// Get reads records_by_key; deleted records are found, with Deleted set.
	Get(ctx context.Context, account, recordKey string) (Row, bool, error)
	// ByPerson reads at most limit records of an account's person, in order of record keys.
	ByPerson(ctx context.Context, account, personID string, limit int) ([]Row, error)
	// ByFCID reads at most limit records of a person in all accounts, in order of accounts and record keys.
	ByFCID(ctx context.Context, fcid string, limit int) ([]Row, error)

	// Apply makes changes durable, those of one record in the order given. Within a change the rows by person and by
	// FCID are written first, then what the record left is deleted, and records_by_key comes last: a row there
	// means that the others are complete. All of it carries New.Version as write timestamp. Applying a change
	// again changes nothing, and a change that is not above the stored version does not touch records_by_key, unless it
	// replaces a row by its Marker, which is final for that version; the caller does not apply such changes otherwise. After an error each change may be applied, in part or not.
	Apply(ctx context.Context, changes []Change) error

	// Scan calls fn for every row of a table, in an order of its own: keys in Pebble, tokens in Cassandra. It may or
	// may not see what is written meanwhile. The row is fn's only during the call.
	Scan(ctx context.Context, table Table, fn func(*Row) error) error
}

// Places inside the application of one change of a record that moves, see Steps.
const (
	MoveWritten = "move: new rows written" // by person and by FCID; the old ones are still there
	MoveCleared = "move: old rows deleted" // the row by key is still the old one
)

// Steps returns the store with a hook, for tests, that is called at the places between two statements of a move; an error
// of it ends the application there. A store that applies a change at once has no such places and is returned as it is.
func Steps(s Store, hook func(point string) error) Store {
	if c, ok := s.(*cassandraStore); ok {
		with := *c
		with.step = hook
		return &with
	}
	return s
}

// Stores opens keyspaces on one server, cluster or directory.
type Stores interface {
	// Keyspace returns the store of a name; it need not exist yet.
	Keyspace(name string) (Store, error)
	Close() error
	// String names the place for logs, without secrets.
	String() string
}

var keyspaceName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,47}$`)

func checkKeyspace(name string) error {
	if !keyspaceName.MatchString(name) {
		return fmt.Errorf("opening keyspace %q: %w", name, ErrKeyspaceName)
	}
	return nil
}

// OpenStores opens what a URL names:
//
//	pebble:///absolute/directory      embedded, for one process; the directory is created when it is missing
//	mem://                            the same in memory, for tests
//	cassandra://host1:9042,host2:9042?replication=3&consistency=LOCAL_QUORUM&datacenter=dc1
//
// The parameters of cassandra are those of CassandraOptions. Its user name and password come from CASSANDRA_USERNAME and
// CASSANDRA_PASSWORD, never from the URL.
func OpenStores(ctx context.Context, url string) (Stores, error) {
	switch {
	case url == "mem://":
		return OpenPebble("")
	case strings.HasPrefix(url, "pebble:///"):
		return OpenPebble(strings.TrimPrefix(url, "pebble://"))
	case strings.HasPrefix(url, "cassandra://"):
		opts, err := parseCassandra(strings.TrimPrefix(url, "cassandra://"))
		if err != nil {
			return nil, fmt.Errorf("opening identity store: %w", err)
		}
		return OpenCassandra(ctx, opts)
	}
	return nil, errors.New("opening identity store: the URL should look like pebble:///dir, cassandra://host:9042 or mem://")
}
