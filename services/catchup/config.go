package catchup

import (
	"errors"
	"fmt"
	"time"
)

// Config of the service, beside what every service has.
type Config struct {
	Tasks        int           `doc:"Partitions that this instance applies at once."`
	BatchRecords int           `doc:"Most records that are applied in one go."`
	Commit       time.Duration `doc:"How often the position is committed; what comes after it is read again when a task is cut off."`
	Attempts     int           `doc:"Failures of a task after which its job fails."`
	PlanTimeout  time.Duration `doc:"Longest time for planning a job; below 1m."`
}

// Default returns the defaults.
func Default() Config {
	return Config{Tasks: 2, BatchRecords: 1000, Commit: 2 * time.Second, Attempts: 5, PlanTimeout: 30 * time.Second}
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
	check(c.BatchRecords >= 1 && c.BatchRecords <= 100_000, "batch_records: %d is not between 1 and 100000", c.BatchRecords)
	check(c.Commit >= 10*time.Millisecond && c.Commit <= 10*time.Minute, "commit: %v is not between 10ms and 10m", c.Commit)
	check(c.Attempts >= 1 && c.Attempts <= 100, "attempts: %d is not between 1 and 100", c.Attempts)
	check(c.PlanTimeout >= time.Second && c.PlanTimeout < time.Minute, "plan_timeout: %v is not between 1s and 1m", c.PlanTimeout)
	return errors.Join(errs...)
}
