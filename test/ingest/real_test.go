//go:build servers

package ingest

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"

	gocql "github.com/apache/cassandra-gocql-driver/v2"

	"databus/pkg/embedded"
	"databus/test/ingest/verify"
	"databus/test/prove"
	"databus/test/servers"
)

func TestProveKillsOnServers(t *testing.T) {
	proveKills(t, onServers(t), prove.Size(10, 200), prove.Size(0, 5))
}

// onServers is a world on a Kafka of its own, because it takes the catalogue's topics, and on the shared Cassandra, with
// a registry in this process.
func onServers(t testing.TB) *world {
	t.Helper()
	kafka, err := servers.StartKafka(t.Context(), servers.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(kafka.Close)
	registry, err := embedded.StartRegistry(embedded.RegistryOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = registry.Close() })
	w := &world{t: t, brokers: strings.Split(kafka.Addr, ","), registry: registry.URL(), shared: true, bin: programs(t), dir: t.ArtifactDir(),
		keyspace: fmt.Sprintf("prove_ingest_%d", time.Now().UnixNano()/1e6)}
	hosts := servers.Cassandra(t)
	w.identity = "cassandra://" + hosts + "?replication=1&consistency=LOCAL_QUORUM&timeout=30s"
	config := gocql.NewCluster(strings.Split(hosts, ",")...)
	config.Timeout = 30 * time.Second
	session, err := config.CreateSession()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := session.Query("DROP KEYSPACE IF EXISTS " + w.keyspace).Exec(); err != nil {
			t.Error(err)
		}
		session.Close()
	})
	w.rows = func(ctx context.Context, table string, each func(verify.Row) error) error {
		return cassandraRows(ctx, session, w.keyspace+"."+table, table == verify.ByKey, each)
	}
	w.prepare()
	return w
}

// cassandraRows reads a table with the driver alone.
func cassandraRows(ctx context.Context, session *gocql.Session, table string, byKey bool, each func(verify.Row) error) error {
	iter := session.Query("SELECT * FROM " + table).IterContext(ctx)
	for {
		m := map[string]any{}
		if !iter.MapScan(m) {
			return iter.Close()
		}
		text := func(name string) string {
			switch v := m[name].(type) {
			case string:
				return v
			case []byte:
				return hex.EncodeToString(v)
			case gocql.UUID:
				if v == (gocql.UUID{}) {
					return ""
				}
				return v.String()
			}
			return ""
		}
		row := verify.Row{Account: text("account"), RecordKey: text("record_key"), FCID: text("fcid"), PersonID: text("person_id"), KeyID: text("key_id")}
		row.Version, _ = m["version"].(int64)
		row.PayloadSchema, _ = m["payload_schema"].([]byte)
		row.Sealed, _ = m["sealed"].([]byte)
		if byKey {
			row.Deleted, _ = m["deleted"].(bool)
			row.Recent, _ = m["recent"].([]byte)
		}
		if err := each(row); err != nil {
			_ = iter.Close()
			return err
		}
	}
}
