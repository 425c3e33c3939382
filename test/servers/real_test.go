//go:build servers

package servers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	gocql "github.com/apache/cassandra-gocql-driver/v2"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// began is called after a start to report how long it took.
func began(t *testing.T, what string) func() {
	start := time.Now()
	return func() { t.Logf("%s: %v", what, time.Since(start).Round(100*time.Millisecond)) }
}

func client(t *testing.T, addr string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(strings.Split(addr, ",")...), kgo.MetadataMinAge(200 * time.Millisecond), kgo.FetchMaxWait(500 * time.Millisecond),
	}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

func produceTransaction(t *testing.T, cl *kgo.Client, topic string, commit kgo.TransactionEndTry, values ...string) {
	t.Helper()
	if err := cl.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	for _, v := range values {
		if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Value: []byte(v)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	if err := cl.EndTransaction(t.Context(), commit); err != nil {
		t.Fatal(err)
	}
}

// consume returns the first n committed values of the topic.
func consume(t *testing.T, addr, topic string, n int) []string {
	t.Helper()
	cl := client(t, addr, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var got []string
	for len(got) < n {
		f := cl.PollFetches(ctx)
		if err := f.Err(); err != nil {
			t.Fatalf("after %q: %v", got, err)
		}
		f.EachRecord(func(r *kgo.Record) { got = append(got, string(r.Value)) })
	}
	return got
}

// stableOffset returns the offset up to which every transaction of partition 0 has ended.
func stableOffset(t *testing.T, addr, topic string) int64 {
	t.Helper()
	offsets, err := kadm.NewClient(client(t, addr)).ListCommittedOffsets(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	o, _ := offsets.Lookup(topic, 0)
	return o.Offset
}

func TestKafkaKeepsCommittedRecordsOverACrash(t *testing.T) {
	done := began(t, "start of one broker")
	p, err := StartKafka(t.Context(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	done()
	if _, err := kadm.NewClient(client(t, p.Addr)).CreateTopic(t.Context(), 1, 1, nil, "t"); err != nil {
		t.Fatal(err)
	}
	tx := client(t, p.Addr, kgo.TransactionalID("tx"))
	produceTransaction(t, tx, "t", kgo.TryCommit, "a", "b")
	produceTransaction(t, tx, "t", kgo.TryAbort, "never")
	// The marker is written after EndTransaction has been answered, and a single broker killed in between can lose it (see
	// StartKafka). This test is about the data of a crashed broker.
	within(t, 20*time.Second, "the abort marker", func() bool { return stableOffset(t, p.Addr, "t") == 5 })
	if err := p.Kill9(); err != nil {
		t.Fatal(err)
	}
	done = began(t, "restart after kill -9")
	if err := p.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	done()
	produceTransaction(t, tx, "t", kgo.TryCommit, "c")
	done = began(t, "restart in order")
	if err := p.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	done()
	if got := consume(t, p.Addr, "t", 3); !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Fatalf("read %q", got)
	}
}

func TestKafkaClusterOutlivesABroker(t *testing.T) {
	done := began(t, "start of three brokers")
	c, err := StartKafkaCluster(t.Context(), 3, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	done()
	admin := kadm.NewClient(client(t, c.Addr()))
	if _, err := admin.CreateTopic(t.Context(), 1, 3, nil, "t"); err != nil {
		t.Fatal(err)
	}
	tx := client(t, c.Addr(), kgo.TransactionalID("tx"))
	produceTransaction(t, tx, "t", kgo.TryCommit, "before")
	leader := func() (leader int32, inSync int) {
		topics, err := admin.ListTopics(t.Context(), "t")
		if err != nil {
			return -1, 0
		}
		p := topics["t"].Partitions[0]
		return p.Leader, len(p.ISR)
	}
	down, _ := leader()
	done = began(t, "kill -9 of the leader to the next commit")
	if err := c.Brokers[down-1].Kill9(); err != nil {
		t.Fatal(err)
	}
	produceTransaction(t, tx, "t", kgo.TryCommit, "while down")
	done()
	done = began(t, "restart until in sync")
	if err := c.Brokers[down-1].Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	within(t, 2*time.Minute, "three replicas in sync", func() bool { _, n := leader(); return n == 3 })
	done()
	if got := consume(t, c.Addr(), "t", 2); !slices.Equal(got, []string{"before", "while down"}) {
		t.Fatalf("read %q", got)
	}
}

func TestRegistryKeepsSchemas(t *testing.T) {
	done := began(t, "start")
	p, err := StartRegistry(t.Context(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	done()
	const schema = `{"type":"record","name":"R","fields":[{"name":"a","type":"string"}]}`
	id := register(t, RegistryURL(p), "s-value", schema)
	if err := p.Kill9(); err != nil {
		t.Fatal(err)
	}
	done = began(t, "restart after kill -9")
	if err := p.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	done()
	res, err := http.Get(fmt.Sprintf("%s/schemas/ids/%d", RegistryURL(p), id))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	var body struct{ Schema string }
	if err := json.NewDecoder(res.Body).Decode(&body); err != nil || body.Schema != schema {
		t.Fatalf("schema %d is %q (%s, %v)", id, body.Schema, res.Status, err)
	}
}

// register adds a schema to a subject and returns its id.
func register(t *testing.T, registry, subject, schema string) int {
	t.Helper()
	req, err := json.Marshal(map[string]string{"schema": schema})
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.Post(registry+"/subjects/"+subject+"/versions", "application/vnd.schemaregistry.v1+json", bytes.NewReader(req))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	var body struct{ ID int }
	if err := json.NewDecoder(res.Body).Decode(&body); err != nil || body.ID == 0 {
		t.Fatalf("registering: %s, %v", res.Status, err)
	}
	return body.ID
}

func session(t *testing.T, addr string) *gocql.Session {
	t.Helper()
	c := gocql.NewCluster(addr)
	c.Timeout = 30 * time.Second
	s, err := c.CreateSession()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// Two nodes at once, the shared one and the test's own, must not meet.
func TestCassandraKeepsRowsAndItsOwnRing(t *testing.T) {
	done := began(t, "start")
	n, err := StartCassandra(t.Context(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	done()
	shared := session(t, Cassandra(t))
	own := session(t, n.Addr)
	for _, q := range []string{
		`CREATE KEYSPACE launcher WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}`,
		`CREATE TABLE launcher.t (k text PRIMARY KEY, v int)`,
		`INSERT INTO launcher.t (k, v) VALUES ('a', 1)`,
	} {
		if err := own.Query(q).ExecContext(t.Context()); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
	if err := n.Kill9(); err != nil {
		t.Fatal(err)
	}
	done = began(t, "restart after kill -9")
	if err := n.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	done()
	var v int
	if err := session(t, n.Addr).Query(`SELECT v FROM launcher.t WHERE k = 'a'`).ScanContext(t.Context(), &v); err != nil || v != 1 {
		t.Fatalf("read %d, %v", v, err)
	}
	if err := shared.Query(`SELECT v FROM launcher.t`).ExecContext(t.Context()); err == nil {
		t.Fatal("the other node knows the keyspace: the two nodes are one ring")
	}
	status, err := n.Nodetool(t.Context(), "status")
	if err != nil || strings.Count(status, "\nUN ") != 1 {
		t.Fatalf("nodetool status: %v\n%s", err, status)
	}
}

func TestS3KeepsObjectsAndChecksKeys(t *testing.T) {
	done := began(t, "start")
	server, err := StartS3(t.Context(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	done()
	cl := server.Client()
	if _, err := cl.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: aws.String("launcher")}); err != nil {
		t.Fatal(err)
	}
	put := func(body string) error {
		_, err := cl.PutObject(t.Context(), &s3.PutObjectInput{
			Bucket: aws.String("launcher"), Key: aws.String("dir/k"), Body: strings.NewReader(body), IfNoneMatch: aws.String("*"),
		})
		return err
	}
	if err := put("first"); err != nil {
		t.Fatal(err)
	}
	if err := server.Kill9(); err != nil {
		t.Fatal(err)
	}
	done = began(t, "restart after kill -9")
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	done()
	var api smithy.APIError
	if err := put("second"); !errors.As(err, &api) || api.ErrorCode() != "PreconditionFailed" {
		t.Fatalf("a second PUT with If-None-Match must fail, got %v", err)
	}
	res, err := cl.GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String("launcher"), Key: aws.String("dir/k")})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	if b, err := io.ReadAll(res.Body); err != nil || string(b) != "first" {
		t.Fatalf("read %q, %v", b, err)
	}
	wrong := server.S3Config
	wrong.SecretKey += "x"
	if err := s3Ready(t.Context(), wrong); err == nil {
		t.Fatal("a wrong secret must not pass the readiness check")
	}
}

func TestKafkaThatCannotStartSaysWhy(t *testing.T) {
	_, err := StartKafka(t.Context(), Options{Config: map[string]string{"log.cleaner.threads": "-3"}})
	if err == nil || !strings.Contains(err.Error(), "log.cleaner.threads") {
		t.Fatalf("got %v", err)
	}
	t.Log(err)
}

func TestSharedServersAreOnePerProcess(t *testing.T) {
	if a, b := S3(t), S3(t); a != b {
		t.Fatalf("two servers: %v, %v", a.Endpoint, b.Endpoint)
	}
	if os.Getenv(S3Variable) != "" && S3(t).Endpoint != os.Getenv(S3Variable) {
		t.Fatal("the environment names a server, another was used")
	}
}
