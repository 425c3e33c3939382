package archiver

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"databus/pkg/archive"
	"databus/schemas"
)

// Config of the service, beside what every service has.
type Config struct {
	Topics        []string      `doc:"Topics to archive; cleanup must be delete, and a dead-letter topic (NAME.dlq) must be there."`
	Patterns      []string      `doc:"Patterns of further topics, such as audit.*; those that are compacted or have no dead-letter topic are left out."`
	Prefix        string        `doc:"Put before every object's name. Changing it for a topic that is archived already splits its archive."`
	KeyFilters    []string      `doc:"Topics whose objects get a bloom filter of their keys. Frozen with the topic's first object, in _layout.json."`
	SortBy        []string      `doc:"TOPIC=COLUMN: the topic's rows are sorted by this column inside each row group, so that engines skip pages when they look for one of its values: a field of the value (a.b inside a record), _key or _timestamp. Objects whose schema has no such column are sorted by offset alone, as all others are. Frozen with the topic's first object, in _layout.json."`
	MaxRecords    int           `doc:"Records after which an object is cut."`
	MaxBytes      int64         `doc:"Bytes of keys, headers and values, uncompressed, after which an object is cut."`
	MaxRecordTime time.Duration `doc:"Span of record timestamps after which an object is cut."`
	Idle          time.Duration `doc:"Time without a new record after which an object is cut."`
	Workers       int           `doc:"Objects that are encoded and uploaded at the same time. Each takes the memory of a row group and of a few parts of an upload, and 32 MiB more where rows are sorted."`
	PutTimeout    time.Duration `doc:"Longest time to encode and upload one object; then that is tried again. At most 5m."`
	RetryMax      time.Duration `doc:"Longest pause between two attempts while the bucket or the registry is out of order."`
	// SessionTimeout and TransactionTimeout decide how soon others take over from an instance that died.
	SessionTimeout     time.Duration `doc:"After this time without heartbeat the group gives the partitions away."`
	TransactionTimeout time.Duration `doc:"Kafka's transaction timeout; also how long a dead instance can hold up the manifest's readers."`
	// AlarmAt and ExtendRetentionTo protect records that wait from the topic's retention.
	AlarmAt           float64       `doc:"Share of a topic's retention that records may wait before the instance says that it is not well; 1 is all of it."`
	ExtendRetentionTo time.Duration `doc:"Where records have waited that long, double the topic's retention, up to this time; 0 leaves it alone."`
	// KeepFor is the archive's own retention.
	KeepFor time.Duration `doc:"Age of an object's newest record at which it leaves the manifest, and a day later the bucket; 0 keeps everything. The last object of a partition stays."`
	// UnknownSchemaToDeadLetters decides about schema ids that the registry does not know.
	UnknownSchemaToDeadLetters bool `doc:"Send records whose schema id the registry does not know to the dead letters instead of waiting."`
}

// Default returns the defaults.
func Default() Config {
	return Config{
		Topics:        []string{schemas.DatabusRecords, schemas.UsageEvents},
		Prefix:        "archive",
		KeyFilters:    []string{schemas.DatabusRecords},
		MaxRecords:    1_000_000,
		MaxBytes:      256 << 20,
		MaxRecordTime: 15 * time.Minute,
		Idle:          time.Minute,
		Workers:       2,
		PutTimeout:    time.Minute,
		RetryMax:      30 * time.Second,

		SessionTimeout: 10 * time.Second, TransactionTimeout: 10 * time.Second, AlarmAt: 0.5,
	}
}

// sortBy is the column by which a topic's rows are sorted; empty is none.
func (c Config) sortBy(topic string) string {
	for _, s := range c.SortBy {
		if name, column, _ := strings.Cut(s, "="); name == topic {
			return column
		}
	}
	return ""
}

// checkSortBy refuses topics that are not archived, and columns that the catalogue's schema does not have. What other topics have is
// known only when they are archived.
func (c Config) checkSortBy() (errs []error) {
	seen := map[string]bool{}
	for _, s := range c.SortBy {
		name, column, ok := strings.Cut(s, "=")
		topic, known := schemas.Lookup(name)
		switch {
		case !ok || name == "" || column == "":
			errs = append(errs, fmt.Errorf("sort_by: %q is not of the form TOPIC=COLUMN", s))
		case seen[name]:
			errs = append(errs, fmt.Errorf("sort_by: %s is named twice: rows are sorted by one column", name))
		case !slices.Contains(c.Topics, name) && !c.matches(name):
			errs = append(errs, fmt.Errorf("sort_by: topic %s is not archived: name it in topics, or leave it out", name))
		case known && topic.Schema != "":
			schema, err := archive.Compile(topic.AvroSchema())
			if err == nil {
				err = schema.Sortable(column)
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("sort_by: topic %s: %w", name, err))
			}
		}
		seen[name] = true
	}
	return errs
}

// matches tells whether a pattern takes a topic. Kafka's own and dead letters are never taken.
func (c Config) matches(name string) bool {
	if strings.HasPrefix(name, "_") || strings.HasSuffix(name, deadLetterSuffix) {
		return false
	}
	return slices.ContainsFunc(c.Patterns, func(pattern string) bool {
		ok, err := path.Match(pattern, name)
		return ok && err == nil
	})
}

// Validate returns everything that is wrong, joined.
func (c Config) Validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(len(c.Topics)+len(c.Patterns) > 0, "topics and patterns: none")
	for _, pattern := range c.Patterns {
		_, err := path.Match(pattern, "x")
		check(err == nil, "patterns: %q is none", pattern)
	}
	seen := map[string]bool{}
	for _, name := range c.Topics {
		check(!seen[name], "topics: %s is named twice", name)
		seen[name] = true
		check(archive.CheckTopic(name) == nil, "topics: %q is no topic's name", name)
		topic, ok := schemas.Lookup(name)
		if !ok {
			continue // what it must be is checked against the brokers
		}
		check(topic.Cleanup == schemas.Delete, "topics: %s is compacted: only topics with cleanup delete keep what an archive needs", name)
		check(topic.Schema != "", "topics: %s has no schema", name)
		check(topic.DeadLetters, "topics: %s has no dead-letter topic", name)
	}
	errs = append(errs, c.checkSortBy()...)
	check(c.MaxRecords > 0 && c.MaxRecords <= 100_000_000, "max_records: %d is not in 1 to 100,000,000", c.MaxRecords)
	check(c.MaxBytes > 0 && c.MaxBytes <= 4<<30, "max_bytes: %d is not in 1 to 4 GiB", c.MaxBytes)
	check(c.MaxRecordTime > 0, "max_record_time: %v is not above 0", c.MaxRecordTime)
	check(c.Idle > 0, "idle: %v is not above 0", c.Idle)
	check(c.Workers > 0 && c.Workers <= 256, "workers: %d is not in 1 to 256", c.Workers)
	check(c.PutTimeout > 0 && c.PutTimeout <= 5*time.Minute, "put_timeout: %v is not in 0 to 5m", c.PutTimeout)
	check(c.RetryMax > 0, "retry_max: %v is not above 0", c.RetryMax)
	check(c.SessionTimeout >= time.Second, "session_timeout: %v is below 1s", c.SessionTimeout)
	check(c.TransactionTimeout >= time.Second && c.TransactionTimeout <= 15*time.Minute, "transaction_timeout: %v is not in 1s to 15m", c.TransactionTimeout)
	check(c.AlarmAt > 0, "alarm_at: %v is not above 0", c.AlarmAt)
	check(c.KeepFor == 0 || c.KeepFor >= time.Hour, "keep_for: %v is below 1h", c.KeepFor)
	check(c.ExtendRetentionTo >= 0, "extend_retention_to: %v is negative", c.ExtendRetentionTo)
	return errors.Join(errs...)
}
