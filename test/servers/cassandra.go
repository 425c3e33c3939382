package servers

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	gocql "github.com/apache/cassandra-gocql-driver/v2"

	"databus/test/servers/fetch"
)

// CassandraNode is a one-node cluster.
type CassandraNode struct {
	*Process
	JMXPort int // on 127.0.0.1, for nodetool

	java    string
	classes []string
}

// StartCassandra starts a one-node cluster. Several of them on one machine do not meet: each has its own storage port and is
// its own seed.
func StartCassandra(ctx context.Context, o Options) (*CassandraNode, error) {
	cache, err := fetch.Open()
	if err != nil {
		return nil, err
	}
	java, major, err := fetch.Java(ctx)
	if err != nil {
		return nil, fmt.Errorf("starting cassandra: %w", err)
	}
	if major != 17 {
		return nil, fmt.Errorf("starting cassandra: it runs on Java 17, %s is Java %d; set JAVA_HOME to a JDK 17", java, major)
	}
	dist, err := mavenJars(ctx, cache, "cassandra", "jvm.options", "logback.xml")
	if err != nil {
		return nil, err
	}
	agents, err := filepath.Glob(filepath.Join(dist, "libs", "jamm-*.jar"))
	if err != nil || len(agents) != 1 {
		return nil, fmt.Errorf("starting cassandra: found %d jamm jars in %s, expected 1; remove that directory to fetch it again", len(agents), dist)
	}

	p := &Process{Name: "cassandra", path: java, env: os.Environ()}
	ports, err := p.prepare(cache, o, 3)
	if err != nil {
		return nil, err
	}
	native, storage, jmx := ports[0], ports[1], ports[2]
	file := filepath.Join(p.Dir, "cassandra.yaml")
	if err := writeSettings(file, cassandraSettings(p.Dir, native, storage), o.Config, ": "); err != nil {
		p.Close()
		return nil, err
	}
	n := &CassandraNode{Process: p, JMXPort: jmx, java: java}
	n.classes = []string{"@" + filepath.Join(dist, "jvm.options"), "-cp", dist + string(os.PathListSeparator) + filepath.Join(dist, "libs", "*")}
	p.args = append([]string{
		"-Xms256m", "-Xmx" + orElse(o.Heap, "1G"), "-Xss256k", "-XX:MaxDirectMemorySize=512m",
		"-XX:+UseG1GC", "-XX:ParallelGCThreads=2", "-XX:+PerfDisableSharedMem", "-javaagent:" + agents[0],
		"-Dlogback.configurationFile=file://" + filepath.Join(dist, "logback.xml"),
		"-Dcassandra.config=file://" + file, "-Dcassandra.storagedir=" + p.Dir, "-Dcassandra.logdir=" + p.Dir,
		"-Dcassandra.jmx.local.port=" + strconv.Itoa(jmx),
		"-Dcassandra-foreground=yes", // without it, what is logged after the start is lost
		// One node has nobody to wait for.
		"-Dcassandra.ring_delay_ms=1000", "-Dcassandra.skip_wait_for_gossip_to_settle=0",
		"-Dcassandra.consistent.rangemovement=false", "-Dcassandra.superuser_setup_delay_ms=0",
	}, n.classes...)
	p.args = append(p.args, "org.apache.cassandra.service.CassandraDaemon")
	p.ready = func(ctx context.Context) error { return cassandraReady(ctx, p.Addr) }
	if err := p.start(ctx); err != nil {
		return nil, err
	}
	return n, nil
}

// Nodetool runs nodetool on the node and returns what it printed.
func (n *CassandraNode) Nodetool(ctx context.Context, args ...string) (string, error) {
	all := append([]string{"-Xmx128m", "-XX:TieredStopAtLevel=1"}, n.classes...)
	all = append(all, "org.apache.cassandra.tools.NodeTool", "-h", "127.0.0.1", "-p", strconv.Itoa(n.JMXPort))
	cmd := exec.CommandContext(ctx, n.java, append(all, args...)...)
	cmd.Dir = n.Dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("running nodetool %s: %w\n%s", strings.Join(args, " "), err, fetch.Tail(out, tailLines))
	}
	return string(out), nil
}

func cassandraSettings(dir string, native, storage int) map[string]string {
	quote := strconv.Quote // a YAML double-quoted string
	return map[string]string{
		"cluster_name":           "databus",
		"num_tokens":             "16",
		"partitioner":            "org.apache.cassandra.dht.Murmur3Partitioner",
		"data_file_directories":  "[ " + quote(filepath.Join(dir, "data")) + " ]",
		"commitlog_directory":    quote(filepath.Join(dir, "commitlog")),
		"saved_caches_directory": quote(filepath.Join(dir, "saved_caches")),
		"hints_directory":        quote(filepath.Join(dir, "hints")),
		"cdc_raw_directory":      quote(filepath.Join(dir, "cdc_raw")),
		// With "periodic", the default, a node killed by -9 forgets the writes it acknowledged in the last 100 ms. The tests
		// crash nodes and expect what was acknowledged.
		"commitlog_sync":             "batch",
		"commitlog_total_space":      "512MiB",
		"seed_provider":              fmt.Sprintf(`[ { class_name: org.apache.cassandra.locator.SimpleSeedProvider, parameters: [ { seeds: "127.0.0.1:%d" } ] } ]`, storage),
		"listen_address":             "127.0.0.1",
		"rpc_address":                "127.0.0.1",
		"storage_port":               strconv.Itoa(storage),
		"native_transport_port":      strconv.Itoa(native),
		"endpoint_snitch":            "SimpleSnitch",
		"dynamic_snitch":             "false",
		"hinted_handoff_enabled":     "false",
		"auto_snapshot":              "false",
		"concurrent_reads":           "16",
		"concurrent_writes":          "32",
		"concurrent_compactors":      "1",
		"memtable_heap_space":        "256MiB",
		"memtable_offheap_space":     "256MiB",
		"file_cache_size":            "64MiB",
		"materialized_views_enabled": "false",
	}
}

// cassandraReady opens a session and reads the node's own row. The bare connection before it spares the log the driver's
// complaints while nothing listens.
func cassandraReady(ctx context.Context, addr string) error {
	hosts := strings.Split(addr, ",")
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", hosts[0])
	if err != nil {
		return err
	}
	_ = conn.Close()
	cluster := gocql.NewCluster(hosts...)
	cluster.ConnectTimeout, cluster.Timeout, cluster.NumConns = 4*time.Second, 4*time.Second, 1
	cluster.DisableInitialHostLookup = true
	session, err := cluster.CreateSession()
	if err != nil {
		return fmt.Errorf("connecting to Cassandra at %s: %w", addr, err)
	}
	defer session.Close()
	var state string
	if err := session.Query("SELECT bootstrapped FROM system.local").ScanContext(ctx, &state); err != nil {
		return fmt.Errorf("querying Cassandra at %s: %w", addr, err)
	}
	if state != "COMPLETED" {
		return fmt.Errorf("querying Cassandra at %s: bootstrap is %s", addr, state)
	}
	return nil
}
