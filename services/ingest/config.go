package ingest

import (
	"errors"
	"fmt"
	"net"
	"time"
)

// Config of the service, beside what every service has.
type Config struct {
	// Region is where phone numbers without a country code belong.
	Region   string `doc:"Country (ISO 3166, two letters) of phone numbers without a country code."`
	API      APIConfig
	Applier  ApplierConfig
	Requests LoopConfig
	Evidence LoopConfig
}

// APIConfig is the HTTP front.
type APIConfig struct {
	Listen          string        `doc:"Address of the API."`
	KeysFile        string        `doc:"JSON file of API keys: [{\"sha256\": HEX, \"account\": ID, \"scopes\": [\"read\", \"write\"], \"expires\": RFC 3339, optional}]. Empty means no authentication, which is allowed on a loopback address only."`
	MaxBody         int64         `doc:"Largest single record, in bytes."`
	MaxBatch        int           `doc:"Most lines of a batch; those behind them are not read, and the answer says so."`
	Timeout         time.Duration `doc:"Longest time for a single call, ?wait=applied included."`
	BatchTimeout    time.Duration `doc:"Longest time for a batch; what was not read by then is refused."`
	Linger          time.Duration `doc:"How long a record may wait for others to share a produce request."`
	LookupLimit     int           `doc:"Most records that a look-up of a person returns."`
	Strict          bool          `doc:"Refuse records of which a field should identify somebody and does not, such as a mail address that is none, and records that identify nobody. Otherwise they are accepted with a warning; a call may choose by ?strict=true or false."`
	WhenNotCaughtUp string        `doc:"What the limit check does before it has read all limits: open lets calls pass, closed refuses them."`
}

// ApplierConfig is the writer of the database.
type ApplierConfig struct {
	Enabled  bool          `doc:"Whether this instance applies records to the databases; off for a pure front."`
	MaxBatch int           `doc:"Most records that are applied in one go."`
	Retry    time.Duration `doc:"Pause before a store that failed is asked again."`
}

// LoopConfig is one exactly-once loop.
type LoopConfig struct {
	Enabled        bool          `doc:"Whether this instance runs the loop."`
	CommitInterval time.Duration `doc:"How often a transaction is committed; 10ms at least."`
}

// Default returns the defaults.
func Default() Config {
	return Config{
		Region: "US",
		API: APIConfig{
			Listen: "127.0.0.1:8080", MaxBody: 256 << 10, MaxBatch: 10_000, Timeout: 10 * time.Second, BatchTimeout: 5 * time.Minute,
			Linger: 2 * time.Millisecond, LookupLimit: 100, WhenNotCaughtUp: "open",
		},
		Applier:  ApplierConfig{Enabled: true, MaxBatch: 2000, Retry: time.Second},
		Requests: LoopConfig{Enabled: true, CommitInterval: 100 * time.Millisecond},
		Evidence: LoopConfig{Enabled: true, CommitInterval: 250 * time.Millisecond},
	}
}

// Validate returns everything that is wrong, joined.
func (c Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	host, _, err := net.SplitHostPort(c.API.Listen)
	if err != nil {
		bad("api.listen: %q is no address; write 127.0.0.1:8080", c.API.Listen)
	} else if ip := net.ParseIP(host); c.API.KeysFile == "" && (ip == nil || !ip.IsLoopback()) {
		bad("api.keys_file: is needed when the API listens on %s, which is not a loopback address", c.API.Listen)
	}
	if c.API.MaxBody < 1024 || c.API.MaxBody > 900<<10 {
		bad("api.max_body: %d is not between 1024 and %d", c.API.MaxBody, 900<<10)
	}
	if c.API.MaxBatch < 1 || c.API.MaxBatch > 1_000_000 {
		bad("api.max_batch: %d is not between 1 and 1000000", c.API.MaxBatch)
	}
	if c.API.LookupLimit < 1 || c.API.LookupLimit > 10_000 {
		bad("api.lookup_limit: %d is not between 1 and 10000", c.API.LookupLimit)
	}
	for key, d := range map[string]time.Duration{"api.timeout": c.API.Timeout, "api.batch_timeout": c.API.BatchTimeout, "applier.retry": c.Applier.Retry} {
		if d <= 0 {
			bad("%s: %v is not above zero", key, d)
		}
	}
	if c.API.Timeout > 0 && c.API.Timeout < time.Second {
		bad("api.timeout: %v is less than 1s, which a broker may take to answer", c.API.Timeout)
	}
	if c.API.Linger < 0 || c.API.Linger > time.Second {
		bad("api.linger: %v is not between 0s and 1s", c.API.Linger)
	}
	if c.API.WhenNotCaughtUp != "open" && c.API.WhenNotCaughtUp != "closed" {
		bad("api.when_not_caught_up: %q is neither open nor closed", c.API.WhenNotCaughtUp)
	}
	if c.Applier.MaxBatch < 1 || c.Applier.MaxBatch > 100_000 {
		bad("applier.max_batch: %d is not between 1 and 100000", c.Applier.MaxBatch)
	}
	for key, d := range map[string]time.Duration{"requests.commit_interval": c.Requests.CommitInterval, "evidence.commit_interval": c.Evidence.CommitInterval} {
		if d < 10*time.Millisecond || d > 5*time.Second {
			bad("%s: %v is not between 10ms and 5s", key, d)
		}
	}
	return errors.Join(errs...)
}
