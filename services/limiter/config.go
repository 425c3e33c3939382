package limiter

import (
	"errors"
	"time"
)

// Config of the service, beside what every service has.
type Config struct {
	CommitInterval     time.Duration `doc:"How far apart transactions of counts are committed, 10ms or more; limits are up to this late."`
	TransactionTimeout time.Duration `doc:"Kafka's transaction timeout; also how long a dead instance blocks its successor elsewhere."`
	SessionTimeout     time.Duration `doc:"After this time without heartbeat the group gives the partitions away."`
	MaxRecords         int           `doc:"Counts of a transaction at most."`
	CacheBytes         int           `doc:"Rows of a partition that are kept in memory, in bytes."`
	LeaveOnStop        bool          `doc:"Give partitions away at once on a clean stop, for scaling down."`
}

// Default returns the defaults.
func Default() Config {
	return Config{CommitInterval: 20 * time.Millisecond, TransactionTimeout: 10 * time.Second, SessionTimeout: 10 * time.Second, MaxRecords: 20_000, CacheBytes: 8 << 20}
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
	check(c.MaxRecords > 0 && c.MaxRecords <= 1_000_000, "max_records is not between 1 and 1000000")
	check(c.CacheBytes >= 1<<10, "cache_bytes is below 1024")
	return errors.Join(errs...)
}
