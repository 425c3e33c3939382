//go:build servers

package e2e

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	gocql "github.com/apache/cassandra-gocql-driver/v2"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"databus/pkg/identity"
	"databus/schemas"
	"databus/test/javatool"
	"databus/test/pytool"
	"databus/test/servers"
)

// The whole main job on real servers, with real input: the FEBRL data set 4, 5,000 persons and a duplicate of each with
// errors. It comes to the same as on embedded parts, although every service is restarted in the middle; and what it
// leaves on the servers is readable by clients that have nothing of Databus in them.
func TestFEBRLOnRealServers(t *testing.T) {
	stack := emptyServers(t)
	dir := t.TempDir()
	args := append(febrl(t, dir), "--keys-file", filepath.Join(dir, "keys.json"))

	embedded := demo(t, 3*time.Minute, nil, filepath.Join(dir, "embedded"), args...)
	embedded.check(t, febrlRecords)
	onServers := demo(t, 8*time.Minute, stack.env, filepath.Join(dir, "real"), slices.Concat(args, stack.flags(), []string{"--restart-services"})...)
	onServers.check(t, febrlRecords)
	if a, b := embedded.comparable(t), onServers.comparable(t); a != b {
		t.Errorf("outcomes differ: on embedded parts\n%s\non real servers\n%s", a, b)
	}
	t.Logf("FEBRL 4: %d records, %d persons by their own identifiers, %d under the graph of the evidence: %d merged, %d split",
		onServers.Records, onServers.Persons, onServers.NewPersons, onServers.Merged, onServers.Split)

	c := connect(t, strings.Split(stack.kafka, ","), stack.registry)
	t.Run("Java", func(t *testing.T) { javaReads(t, stack, c, onServers) })
	t.Run("DuckDB", func(t *testing.T) { duckDBReads(t, stack, c, onServers) })
	t.Run("Cassandra", func(t *testing.T) { driverReads(t, stack, onServers) })
}

const (
	febrlRecords = 10_000
	febrlAccount = "febrl"
)

// febrl makes one CSV file of the data set's two, and returns the demo's flags for it. The other columns have the names
// that ingest knows. Records are Australian, which matters to phone numbers alone, and there are none.
func febrl(t *testing.T, dir string) []string {
	t.Helper()
	source, err := pytool.FEBRL(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var all bytes.Buffer
	for i, name := range []string{"dataset4a.csv", "dataset4b.csv"} {
		b, err := os.ReadFile(filepath.Join(source, name))
		if err != nil {
			t.Fatal(err)
		}
		if i > 0 {
			_, b, _ = bytes.Cut(b, []byte("\n")) // the header
		}
		all.Write(b)
		if !bytes.HasSuffix(b, []byte("\n")) {
			all.WriteByte('\n')
		}
	}
	rows, err := csv.NewReader(bytes.NewReader(all.Bytes())).ReadAll()
	if err != nil || len(rows) != febrlRecords+1 {
		t.Fatalf("the data set has %d lines, %v", len(rows), err)
	}
	path := filepath.Join(dir, "febrl4.csv")
	if err := os.WriteFile(path, all.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return []string{"--csv", path, "--account", febrlAccount, "--record-id", "rec_id", "--map", "birth_date=date_of_birth", "--map", "national_id=soc_sec_id"}
}

// A stack is the four real servers.
type stack struct {
	kafka, registry, cassandra string
	s3                         servers.S3Config
	bucket                     string
	env                        []string
	session                    *gocql.Session
}

// prefix of everything in the bucket.
const prefix = "e2e"

// emptyServers returns servers without anything of a Databus, and removes what the test leaves there. Servers that hold
// one already are refused: they may be somebody's.
func emptyServers(t *testing.T) *stack {
	t.Helper()
	s := &stack{kafka: servers.Kafka(t), registry: servers.Registry(t), cassandra: servers.Cassandra(t), s3: servers.S3(t)}
	s.bucket = fmt.Sprintf("databus-e2e-%d", time.Now().UnixNano())
	s.env = []string{"AWS_ACCESS_KEY_ID=" + s.s3.AccessKey, "AWS_SECRET_ACCESS_KEY=" + s.s3.SecretKey, "AWS_REGION=" + s.s3.Region}
	if _, err := s.s3.Client().CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: &s.bucket}); err != nil {
		t.Fatal(err)
	}
	config := gocql.NewCluster(strings.Split(s.cassandra, ",")...)
	config.Timeout, config.ConnectTimeout = time.Minute, time.Minute
	var err error
	if s.session, err = config.CreateSession(); err != nil {
		t.Fatal(err)
	}
	c := connect(t, strings.Split(s.kafka, ","), s.registry)
	if topics, keyspaces := s.topics(t, c), s.keyspaces(t); len(topics)+len(keyspaces) > 0 {
		t.Fatalf("the servers hold a Databus already: topics %v, keyspaces %v; give the test servers of its own, or remove them", topics, keyspaces)
	}
	t.Cleanup(func() { s.empty(t, c) })
	return s
}

func (s *stack) topics(t *testing.T, c *cluster) []string {
	t.Helper()
	listed, err := c.ListTopics(context.WithoutCancel(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, topic := range schemas.WithDeadLetters() {
		if listed.Has(topic.Name) {
			names = append(names, topic.Name)
		}
	}
	return names
}

// keyspaces are those of database versions.
func (s *stack) keyspaces(t *testing.T) []string {
	t.Helper()
	var names []string
	var name string
	iter := s.session.Query("SELECT keyspace_name FROM system_schema.keyspaces").Iter()
	for iter.Scan(&name) {
		if strings.HasPrefix(name, "databus_") {
			names = append(names, name)
		}
	}
	if err := iter.Close(); err != nil {
		t.Fatal(err)
	}
	return names
}

func (s *stack) empty(t *testing.T, c *cluster) {
	ctx := context.WithoutCancel(t.Context()) // the test is over
	defer s.session.Close()
	for _, name := range s.keyspaces(t) {
		if err := s.session.Query("DROP KEYSPACE " + name).ExecContext(ctx); err != nil {
			t.Error(err)
		}
	}
	if _, err := c.DeleteTopics(ctx, s.topics(t, c)...); err != nil {
		t.Error(err)
	}
	client := s.s3.Client()
	for pages := s3.NewListObjectsV2Paginator(client, &s3.ListObjectsV2Input{Bucket: &s.bucket}); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			t.Error(err)
			return
		}
		var ids []types.ObjectIdentifier
		for _, o := range page.Contents {
			ids = append(ids, types.ObjectIdentifier{Key: o.Key})
		}
		if len(ids) == 0 {
			continue
		}
		if _, err := client.DeleteObjects(ctx, &s3.DeleteObjectsInput{Bucket: &s.bucket, Delete: &types.Delete{Objects: ids, Quiet: aws.Bool(true)}}); err != nil {
			t.Error(err)
		}
	}
	if _, err := client.DeleteBucket(ctx, &s3.DeleteBucketInput{Bucket: &s.bucket}); err != nil {
		t.Error(err)
	}
}

// flags tell the command where the servers are.
func (s *stack) flags() []string {
	return []string{"--external", "--brokers", s.kafka, "--registry", s.registry,
		"--bucket-url", s.s3.BucketURL(s.bucket + "/" + prefix),
		"--identity-url", "cassandra://" + s.cassandra + "?replication=1&timeout=60s"}
}

// javaReads reads both topics of the main job with kafka-clients and Apache Avro.
func javaReads(t *testing.T, s *stack, c *cluster, o outcome) {
	read := func(topic string) []javatool.Record {
		records, err := javatool.ReadTopic(t.Context(), s.kafka, s.registry, topic)
		if err != nil {
			t.Fatal(err)
		}
		// Ours is by another client, and leaves out control records by itself.
		if want := len(c.read(t, topic)); len(records) != want || want == 0 {
			t.Errorf("Java reads %d records of %s, franz-go %d", len(records), topic, want)
		}
		fields := fieldNames(t, topic)
		for _, r := range records {
			var value map[string]json.RawMessage
			if err := json.Unmarshal(r.Value, &value); err != nil || !slices.Equal(slices.Sorted(maps.Keys(value)), fields) {
				t.Fatalf("%s/%d@%d has fields %v, %v; the schema has %v", topic, r.Partition, r.Offset, slices.Sorted(maps.Keys(value)), err, fields)
			}
		}
		t.Logf("Java reads %d records of %s", len(records), topic)
		return records
	}
	requests := map[string]bool{}
	for _, r := range read(schemas.DatabusRecords) {
		var v struct {
			Account   string `json:"account"`
			RecordKey string `json:"record_key"`
			RequestID string `json:"request_id"`
			Kind      string `json:"kind"`
			Sealed    []byte `json:"sealed"`
		}
		if err := json.Unmarshal(r.Value, &v); err != nil {
			t.Fatal(err)
		}
		if v.Account != febrlAccount || r.Key == nil || *r.Key != v.Account+"/"+v.RecordKey || (v.Kind == "UPSERT") != (len(v.Sealed) > 0) {
			t.Fatalf("%s/%d@%d, key %v: %+v", schemas.DatabusRecords, r.Partition, r.Offset, r.Key, v)
		}
		requests[v.RecordKey+" "+v.RequestID] = true
	}
	if int64(len(requests)) != o.Counted[febrlAccount] {
		t.Errorf("Java finds %d different writes, the usage count says %d", len(requests), o.Counted[febrlAccount])
	}
	packs := map[string]int64{}
	seen := map[string]bool{}
	for _, r := range read(schemas.UsageEvents) {
		var v struct {
			EventID  string `json:"event_id"`
			Pack     string `json:"pack"`
			Quantity int64  `json:"quantity"`
		}
		if err := json.Unmarshal(r.Value, &v); err != nil {
			t.Fatal(err)
		}
		if !seen[v.EventID] {
			seen[v.EventID] = true
			packs[v.Pack] += v.Quantity
		}
	}
	if packs["resolve"] != o.Counted[febrlAccount] || packs["lookup"] < 500 {
		t.Errorf("Java sums up %v, the usage count of written records is %d", packs, o.Counted[febrlAccount])
	}
}

// fieldNames are those of a topic's schema.
func fieldNames(t *testing.T, topic string) []string {
	t.Helper()
	var schema struct {
		Fields []struct {
			Name string `json:"name"`
		} `json:"fields"`
	}
	if err := json.Unmarshal([]byte(schemas.MustLookup(topic).AvroSchema()), &schema); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range schema.Fields {
		names = append(names, f.Name)
	}
	slices.Sort(names)
	return names
}

// duckDBReads counts the rows of the archive's files on S3 and compares them with the manifest.
func duckDBReads(t *testing.T, s *stack, c *cluster, o outcome) {
	for _, topic := range []string{schemas.DatabusRecords, schemas.UsageEvents} {
		manifest := c.manifest(t, topic)
		counted, err := pytool.CountS3(t.Context(), s.s3, s.bucket, prefix+"/archive/"+topic)
		if err != nil {
			t.Fatal(err)
		}
		files := map[string]pytool.File{}
		for _, f := range counted.Files {
			files[strings.TrimPrefix(f.Path, prefix+"/")] = f
		}
		var rows int64
		for _, f := range manifest.files {
			got, ok := files[f.Object]
			if !ok || got.Rows != f.Rows {
				t.Errorf("DuckDB counts %d rows in %s, the manifest says %d", got.Rows, f.Object, f.Rows)
			}
			rows += got.Rows
			for _, field := range fieldNames(t, topic) {
				if _, ok := got.Columns[field]; !ok {
					t.Errorf("%s has no column %s: %v", f.Object, field, got.Columns)
				}
			}
			delete(files, f.Object)
		}
		// The services were stopped while usage events were still coming: a file may have been put and not announced.
		for path := range files {
			if topic != schemas.UsageEvents {
				t.Errorf("%s is not in the manifest", path)
			}
		}
		t.Logf("DuckDB counts %d rows in %d files of %s", rows, len(manifest.files), topic)
		if topic == schemas.DatabusRecords && (rows < o.Archived || manifest.dead > 0) {
			t.Errorf("DuckDB counts %d Databus records, with %d dead letters; %d were archived before the rebuild", rows, manifest.dead, o.Archived)
		}
	}
}

// driverReads counts the rows of the three tables of the serving and of the rebuilt database.
func driverReads(t *testing.T, s *stack, o outcome) {
	keyspaces := s.keyspaces(t)
	if len(keyspaces) != 3 || !slices.Contains(keyspaces, "databus_v1") {
		t.Errorf("the keyspaces are %v, want databus_v1 and two rebuilt ones", keyspaces)
	}
	for _, keyspace := range keyspaces {
		var sum int64
		counts := map[string]int64{}
		for _, table := range identity.Tables() {
			var n int64
			if err := s.session.Query(fmt.Sprintf("SELECT count(*) FROM %s.%s", keyspace, table.Name)).Scan(&n); err != nil {
				t.Fatal(err)
			}
			counts[table.Name], sum = n, sum+n
		}
		t.Logf("%s: %v", keyspace, counts)
		if sum != o.Rows || counts["records_by_key"] != o.Records {
			t.Errorf("%s has %v, %d rows in all; the demo counted %d rows of %d records", keyspace, counts, sum, o.Rows, o.Records)
		}
	}
}
