//go:build servers

package identity

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	gocql "github.com/apache/cassandra-gocql-driver/v2"

	"databus/pkg/identity"
	"databus/pkg/identity/identitytest"
	"databus/test/servers"
)

func TestMain(m *testing.M) { servers.Main(m) }

// prefix makes names of keyspaces that no other run on the same servers has.
func prefix() string { return fmt.Sprintf("identity_%d_%d", os.Getpid(), time.Now().Unix()%100000) }

func open(t testing.TB) identity.Stores {
	t.Helper()
	stores, err := identity.OpenStores(t.Context(), "cassandra://"+servers.Cassandra(t)+"?replication=1&consistency=LOCAL_QUORUM&timeout=30s")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stores.Close(); err != nil {
			t.Error(err)
		}
	})
	return stores
}

func TestCassandra(t *testing.T) {
	stores := open(t)
	identitytest.Run(t, prefix(), func(testing.TB) identity.Stores { return stores })
}

// What an operator sees in cqlsh: the write timestamp of every cell is the row's version, and keys are queryable as the
// tables' documents say.
func TestWriteTimestampsAreVersions(t *testing.T) {
	stores := open(t)
	keyspace := prefix() + "_ts"
	s := identitytest.Fresh(t, stores, keyspace)
	h := identitytest.NewHistory(t, 5, 60)
	applier := identity.Applier{Rows: h.Resolver, Graph: h.Graph}
	if _, err := applier.Apply(t.Context(), s, h.Inputs); err != nil {
		t.Fatal(err)
	}
	config := gocql.NewCluster(strings.Split(servers.Cassandra(t), ",")...)
	config.Timeout = 30 * time.Second
	session, err := config.CreateSession()
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	for _, table := range identity.Tables() {
		iter := session.Query(fmt.Sprintf("SELECT version, writetime(version), writetime(sealed), writetime(key_id) FROM %s.%s", keyspace, table.Name)).Iter()
		var version, written int64
		var sealed, key *int64
		n := 0
		for iter.Scan(&version, &written, &sealed, &key) {
			n++
			if version != written || sealed != nil && *sealed != version || key != nil && *key != version {
				t.Errorf("%s: version %d was written at %d", table.Name, version, written)
			}
		}
		if err := iter.Close(); err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			t.Errorf("%s is empty", table.Name)
		}
	}
	for _, row := range h.Want {
		if row.Deleted {
			continue
		}
		var person gocql.UUID
		err := session.Query(fmt.Sprintf("SELECT person_id FROM %s.records_by_key WHERE account = '%s' AND record_key = 0x%s", keyspace, row.Account, row.RecordKey)).Scan(&person)
		if err != nil || person.String() != row.PersonID {
			t.Errorf("person %s, %v; want %s", person, err, row.PersonID)
		}
	}
}
