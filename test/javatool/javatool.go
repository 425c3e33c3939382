// Package javatool runs the JVM clients of test/java, to show that stock Java reads what Databus writes.
//
// Promise: a result comes from kafka-clients and Apache Avro alone. The programs are compiled once and kept in the tests' cache.
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
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

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
	dir, err := build(ctx)
	if err != nil {
		return nil, err
	}
	bin, _, err := fetch.Java(ctx)
	if err != nil {
		return nil, err
	}
	classPath := filepath.Join(dir, "target", "classes") + string(os.PathListSeparator) + filepath.Join(dir, "libs", "*")
	cmd := exec.CommandContext(ctx, bin, "-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC",
		"-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", classPath, "databus.ReadTopic", bootstrap, registry, topic)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("reading topic %s with Java: %w\n%s", topic, err, fetch.Tail(errs.Bytes(), 25))
	}
	var records []Record
	for dec := json.NewDecoder(&out); dec.More(); {
		var r Record
		if err := dec.Decode(&r); err != nil {
			return nil, fmt.Errorf("parsing what Java printed of topic %s: %w", topic, err)
		}
		records = append(records, r)
	}
	return records, nil
}

// build compiles the programs once for each state of their sources.
func build(ctx context.Context) (string, error) {
	cache, err := fetch.Open()
	if err != nil {
		return "", err
	}
	files := map[string][]byte{}
	var key strings.Builder
	err = fs.WalkDir(java.Sources, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := java.Sources.ReadFile(path)
		files[path] = b
		fmt.Fprintf(&key, "%s %d\n%s", path, len(b), b)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("reading the Java sources: %w", err)
	}
	return cache.Once(ctx, "java-readers", key.String(), func(ctx context.Context, tmp string) error {
		for path, b := range files {
			file := filepath.Join(tmp, filepath.FromSlash(path))
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(file, b, 0o644); err != nil {
				return err
			}
		}
		return cache.Maven(ctx, tmp, "compile", "dependency:copy-dependencies",
			"-DoutputDirectory="+filepath.Join(tmp, "libs"), "-DincludeScope=runtime")
	})
}
