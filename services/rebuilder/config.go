package rebuilder

import (
	"errors"
	"fmt"
	"time"
)

// Config of the service, beside what every service has.
type Config struct {
	Tasks       int           `doc:"Tasks that this instance runs at once; each holds one partition's record keys in memory."`
	BatchRows   int           `doc:"Records that are written to the store in one go."`
	BatchBytes  int           `doc:"Bytes of sealed payloads after which a batch is written, full or not."`
	Attempts    int           `doc:"Failures of a task after which its job fails."`
	PlanTimeout time.Duration `doc:"Longest time for planning a job; below 1m."`
	Cleanup     time.Duration `doc:"How often what failed and cancelled jobs have left is looked for."`
}

// Default returns the defaults.
func Default() Config {
	return Config{Tasks: 2, BatchRows: 500, BatchBytes: 4 << 20, Attempts: 5, PlanTimeout: 30 * time.Second, Cleanup: 2 * time.Second}
}

// Validate returns everything that is wrong, joined.
func (c Config) Validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(c.Tasks >= 1 && c.Tasks <= 64, "tasks: %d is not between 1 and 64", c.Tasks)
	check(c.BatchRows >= 1 && c.BatchRows <= 100_000, "batch_rows: %d is not between 1 and 100000", c.BatchRows)
	check(c.BatchBytes >= 1<<10 && c.BatchBytes <= 1<<30, "batch_bytes: %d is not between 1024 and 1073741824", c.BatchBytes)
	check(c.Attempts >= 1 && c.Attempts <= 100, "attempts: %d is not between 1 and 100", c.Attempts)
	check(c.PlanTimeout >= time.Second && c.PlanTimeout < time.Minute, "plan_timeout: %v is not between 1s and 1m", c.PlanTimeout)
	check(c.Cleanup >= 100*time.Millisecond && c.Cleanup <= time.Hour, "cleanup: %v is not between 100ms and 1h", c.Cleanup)
	return errors.Join(errs...)
}
