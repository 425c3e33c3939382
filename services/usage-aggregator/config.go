package usageaggregator

import (
	"errors"
	"time"
)

// Config of the service, beside what every service has.
type Config struct {
	CommitInterval     time.Duration `doc:"How far apart transactions of events are committed, 10ms or more; counts are up to this late."`
	DedupWindow        time.Duration `doc:"Events with an id seen within this append time are dropped; 0 turns that off."`
	TransactionTimeout time.Duration `doc:"Kafka's transaction timeout; also how long a dead instance blocks its successor elsewhere."`
	SessionTimeout     time.Duration `doc:"After this time without heartbeat the group gives the partitions away."`
	MaxRecords         int           `doc:"Events of a transaction at most."`
	WriteInterval      time.Duration `doc:"How long committed counts are collected before they are written to disk; a restart reads those again from Kafka, about a quarter of a million records and one transaction at most, and as many events where repeats are dropped."`
	CacheBytes         int           `doc:"Counts and accounts of a partition that are kept in memory, in bytes."`
	KeepEnded          time.Duration `doc:"Counts of a period are deleted this long after its end, and events that happened longer ago are refused; 0 keeps all."`
	History            History       `doc:"Counts of what happened before an account's events were counted."`
	LeaveOnStop        bool          `doc:"Give partitions away at once on a clean stop, for scaling down."`
}

// History says whether somebody answers usage.baseline-requests.
type History struct {
	Enabled bool `doc:"Ask for the history of periods that began before they were counted; their counts are provisional until it is added."`
}

// Default returns the defaults.
func Default() Config {
	return Config{CommitInterval: 100 * time.Millisecond, DedupWindow: 24 * time.Hour, TransactionTimeout: 10 * time.Second,
		SessionTimeout: 10 * time.Second, MaxRecords: 1_000_000, WriteInterval: 5 * time.Second, CacheBytes: 8 << 20, KeepEnded: 400 * 24 * time.Hour}
}

// Validate returns everything that is wrong, joined.
func (c Config) Validate() error {
	var errs []error
	check := func(ok bool, text string) {
		if !ok {
			errs = append(errs, errors.New(text))
		}
	}
	check(c.CommitInterval >= 10*time.Millisecond, "commit_interval is below 10ms")
	check(c.TransactionTimeout >= time.Second && c.TransactionTimeout <= 15*time.Minute, "transaction_timeout is not between 1s and 15m")
	check(c.CommitInterval <= c.TransactionTimeout/2, "commit_interval is longer than half of transaction_timeout")
	check(c.SessionTimeout >= time.Second, "session_timeout is below 1s")
	check(c.DedupWindow >= 0 && c.DedupWindow <= 7*24*time.Hour, "dedup_window is not between 0 and 168h")
	check(c.MaxRecords > 0 && c.MaxRecords <= 1_000_000, "max_records is not between 1 and 1000000")
	check(c.WriteInterval > 0 && c.WriteInterval <= time.Minute, "write_interval is not between 0 and 1m")
	check(c.KeepEnded == 0 || c.KeepEnded >= 24*time.Hour, "keep_ended is below 24h; 0 keeps all counts")
	check(c.CacheBytes >= 1<<10, "cache_bytes is below 1024")
	return errors.Join(errs...)
}
