// Package javatool runs the JVM clients of test/java, to show that stock Java reads what Databus writes.
//
// Promise: a result comes from kafka-clients, Apache Avro and parquet-java alone. The programs are compiled once and kept in the tests' cache.
//
// Concurrency: safe for use from several goroutines and processes.
//
// Failure: whatever the program could not read is an error with its message; no record is left out silently.
package javatool

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"

	"databus/test/java"
	"databus/test/servers/fetch"
)

// Record is one record as the stock Java client saw it.
type Record struct {
	Partition int32           `json:"partition"`
	Offset    int64           `json:"offset"`
	Timestamp int64           `json:"timestamp"` // milliseconds since 1970
	Key       *string         `json:"key"`       // nil for a record without a key
	Headers   []Header        `json:"headers"`
	SchemaID  int             `json:"schemaId"` // 0 for a tombstone
	Schema    string          `json:"schema"`   // full name of the writer's schema
	Value     json.RawMessage `json:"value"`    // plain JSON; "null" for a tombstone
}

// Header is a record header.
type Header struct {
	Name  string `json:"name"`
	Value []byte `json:"value"`
}

// ReadTopic returns the committed records of the topic from its beginning to its end as it is now, partition by
// partition in order of offset; the partitions are interleaved. registry is the base URL of the Confluent API.
func ReadTopic(ctx context.Context, bootstrap, registry, topic string) ([]Record, error) {
	out, err := run(ctx, "reading topic "+topic, "ReadTopic", bootstrap, registry, topic)
	if err != nil {
		return nil, err
	}
	var records []Record
	for dec := json.NewDecoder(out); dec.More(); {
		var r Record
		if err := dec.Decode(&r); err != nil {
			return nil, fmt.Errorf("parsing what Java printed of topic %s: %w", topic, err)
		}
		records = append(records, r)
	}
	return records, nil
}

// ReadParquet reads every file *.parquet below dir with parquet-java, and writes beside each one FILE.ndjson with an
// object for each row: columns by name, null where nothing is there, numbers as they are stored whatever their logical type, strings as
// strings, other bytes as "b:" and their hex, lists as arrays, maps as arrays of pairs in their order.
func ReadParquet(ctx context.Context, dir string) error {
	_, err := run(ctx, "reading Parquet files", "ReadParquet", dir)
	return err
}

// run runs a program to its end.
func run(ctx context.Context, what, class string, args ...string) (*bytes.Buffer, error) {
	cache, err := fetch.Open()
	if err != nil {
		return nil, err
	}
	classPath, err := cache.JavaProject(ctx, "java-readers", java.Sources)
	if err != nil {
		return nil, err
	}
	bin, _, err := fetch.Java(ctx)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, bin, append([]string{"-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC",
		"-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", classPath, "databus." + class}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s with Java: %w\n%s", what, err, fetch.Tail(errs.Bytes(), 25))
	}
	return &out, nil
}
