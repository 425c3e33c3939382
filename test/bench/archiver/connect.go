package archiver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"databus/schemas"
	"databus/test/bench/sinks"
	"databus/test/process"
	"databus/test/servers/fetch"
)

// connect is a standalone worker of Kafka Connect with a connector of Iceberg's sink for each topic, so that both cores have
// a task. Its catalogs are SQLite files, one for each connector: they would wait for each other's locks in one.
type connect struct {
	b         *bench
	java      string
	classPath string
	bucket    string
	tables    []string
}

// The collector that was the faster one of two on two cores.
var connectJVM = []string{"-Xms512m", "-Xmx2g", "-XX:+UseParallelGC"}

func newConnect(ctx context.Context, b *bench) (contender, error) {
	java, classPath, err := build(ctx)
	return &connect{b: b, java: java, classPath: classPath}, err
}

// build compiles the peers.
func build(ctx context.Context) (java, classPath string, err error) {
	if java, _, err = fetch.Java(ctx); err != nil {
		return "", "", err
	}
	cache, err := fetch.Open()
	if err != nil {
		return "", "", err
	}
	classPath, err = cache.JavaProject(ctx, "bench-sinks", sinks.Sources)
	return java, classPath, err
}

func (c *connect) name() string { return "connect" }
func (c *connect) done()        {}

// stop kills it: a worker takes its time to leave, and what it would do then is not measured.
func (c *connect) stop(p *process.Program) error { return p.Kill() }

func (c *connect) prepare(ctx context.Context, bucket string, n int) (*exec.Cmd, error) {
	b := c.b
	c.bucket, c.tables = bucket, nil
	dir := b.path(fmt.Sprint("connect-", n))
	// A catalogue that an earlier bench left there names objects of a bucket that is gone: all tasks would stand still.
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
		return nil, fmt.Errorf("making a directory: %w", err)
	}
	worker := map[string]string{
		"bootstrap.servers":                              b.addr,
		"key.converter":                                  "org.apache.kafka.connect.converters.ByteArrayConverter",
		"value.converter":                                "io.apicurio.registry.utils.converter.AvroConverter",
		"value.converter.apicurio.registry.url":          b.apicurio,
		"value.converter.apicurio.registry.as-confluent": "true",
		"value.converter.apicurio.registry.use-id":       "contentId",
		"offset.storage.file.filename":                   filepath.Join(dir, "offsets"),
		"listeners":                                      "http://127.0.0.1:0",
		"plugin.discovery":                               "service_load",
		"consumer.max.poll.records":                      "5000",
		"consumer.isolation.level":                       "read_committed",
	}
	files := []string{filepath.Join(dir, "worker.properties")}
	if err := writeProperties(files[0], worker); err != nil {
		return nil, err
	}
	for _, topic := range []string{schemas.UsageEvents, schemas.DatabusRecords} {
		name := fmt.Sprintf("%s-%d", strings.ReplaceAll(topic, ".", "-"), n)
		control := "control-" + name
		if _, err := b.admin.CreateTopic(ctx, 1, 1, nil, control); err != nil {
			return nil, fmt.Errorf("creating %s: %w", control, err)
		}
		table := strings.ReplaceAll(topic, ".", "_")
		c.tables = append(c.tables, "warehouse/bench/"+table)
		file := filepath.Join(dir, name+".properties")
		err := writeProperties(file, map[string]string{
			"name":                               name,
			"connector.class":                    "org.apache.iceberg.connect.IcebergSinkConnector",
			"tasks.max":                          "1",
			"topics":                             topic,
			"iceberg.tables":                     "bench." + table,
			"iceberg.tables.auto-create-enabled": "true",
			"iceberg.tables.auto-create-props.write.parquet.compression-codec": "zstd",
			"iceberg.tables.auto-create-props.write.parquet.compression-level": "1",
			"iceberg.tables.auto-create-props.write.target-file-size-bytes":    "15000000",
			"iceberg.control.topic":                control,
			"iceberg.control.commit.interval-ms":   "30000",
			"iceberg.catalog.catalog-impl":         "org.apache.iceberg.jdbc.JdbcCatalog",
			"iceberg.catalog.uri":                  "jdbc:sqlite:" + filepath.Join(dir, name+".db"),
			"iceberg.catalog.warehouse":            "s3://" + bucket + "/warehouse",
			"iceberg.catalog.io-impl":              "org.apache.iceberg.aws.s3.S3FileIO",
			"iceberg.catalog.s3.endpoint":          b.store.Endpoint,
			"iceberg.catalog.s3.path-style-access": "true",
			"iceberg.catalog.s3.access-key-id":     b.store.AccessKey,
			"iceberg.catalog.s3.secret-access-key": b.store.SecretKey,
			"iceberg.catalog.client.region":        b.store.Region,
		})
		if err != nil {
			return nil, err
		}
		files = append(files, file)
	}
	args := append(slices.Clone(connectJVM), "-cp", c.classPath, "org.apache.kafka.connect.cli.ConnectStandalone")
	return exec.Command(c.java, append(args, files...)...), nil
}

func writeProperties(file string, of map[string]string) error {
	var text strings.Builder
	for k, v := range of {
		fmt.Fprintf(&text, "%s=%s\n", k, v)
	}
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		return fmt.Errorf("writing properties: %w", err)
	}
	return nil
}

func (c *connect) progress(ctx context.Context) (int64, error) {
	s, err := c.stored(ctx)
	return s.rows, err
}

// stored asks the newest metadata of the tables: their current snapshot says how many rows and bytes it has.
func (c *connect) stored(ctx context.Context) (s stored, err error) {
	for _, table := range c.tables {
		newest := ""
		err := c.b.list(ctx, c.bucket, table+"/metadata/", func(key string, _ int64) error {
			if strings.HasSuffix(key, ".metadata.json") {
				newest = max(newest, key) // they begin with a number of five digits
			}
			return nil
		})
		if err != nil {
			return s, err
		}
		if newest == "" {
			continue
		}
		got, err := c.b.read(ctx, c.bucket, newest)
		if err != nil {
			return s, err
		}
		var metadata struct {
			Current   int64 `json:"current-snapshot-id"`
			Snapshots []struct {
				ID      int64             `json:"snapshot-id"`
				Summary map[string]string `json:"summary"`
			} `json:"snapshots"`
		}
		if err := json.Unmarshal(got, &metadata); err != nil {
			return s, fmt.Errorf("reading %s: %w", newest, err)
		}
		for _, x := range metadata.Snapshots {
			if x.ID != metadata.Current {
				continue
			}
			rows, err := strconv.ParseInt(x.Summary["total-records"], 10, 64)
			bytes, err2 := strconv.ParseInt(x.Summary["total-files-size"], 10, 64)
			files, err3 := strconv.Atoi(x.Summary["total-data-files"])
			if err != nil || err2 != nil || err3 != nil {
				return s, fmt.Errorf("%s: the current snapshot has no totals: %v", newest, x.Summary)
			}
			s.rows, s.bytes, s.objects = s.rows+rows, s.bytes+bytes, s.objects+files
		}
	}
	return s, nil
}
