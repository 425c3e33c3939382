package usagehistory

import (
	"errors"
	"net/url"
	"time"

	"databus/pkg/service"
)

// Sources of history.
const (
	sourceArchive = "archive"
	sourceDruid   = "druid"
)

// Config of the service, beside what every service has.
type Config struct {
	Source         string        `doc:"archive counts the archive's files and Kafka's tail, exactly by offset; druid asks Druid, by time, and its answers are estimated."`
	Concurrency    int           `doc:"Partitions that are counted at once."`
	MaxPending     int           `doc:"Requests that are held in memory; further ones stay in the topic."`
	MaxIDs         int           `koanf:"max_ids" doc:"Event ids of one window that a pass over a partition keeps in memory, about 100 bytes each; a pass over many accounts is cut into several."`
	SessionTimeout time.Duration `doc:"After this time without heartbeat the group gives the partitions away; an instance with the same id goes on at once."`
	RetryMin       time.Duration `doc:"First pause after something failed."`
	RetryMax       time.Duration `doc:"Longest pause after something failed."`
	ClockSlack     time.Duration `doc:"How far the clocks of this machine and of the brokers may be apart."`
	Druid          Druid         `doc:"Where Druid is, with druid as source."`
}

// Druid says where Druid is and what the columns of its events are called.
type Druid struct {
	URL        string         `koanf:"url" doc:"Router or broker, such as http://druid-router:8888; a user belongs into user."`
	Datasource string         `doc:"Name of the data source of usage events."`
	User       string         `doc:"User of basic authentication, if any."`
	Password   service.Secret `doc:"Password of the user; set it in the environment."`
	Token      service.Secret `doc:"Bearer token instead of a user; set it in the environment."`
	Timeout    time.Duration  `doc:"Of one query."`
	MaxBytes   int            `doc:"Longest answer that is read."`
	Columns    Columns        `doc:"Names of columns."`
}

// Columns of Druid's data source.
type Columns struct {
	Time     string `doc:"When the call happened."`
	Account  string `doc:"Account id."`
	Pack     string `doc:"Data pack."`
	Status   string `doc:"200 for a match, as a number."`
	Provider string `doc:"Data provider; null where there is none."`
	Quantity string `doc:"Units, summed up."`
	Amount   string `doc:"Amount owed to the provider in millionths, summed up."`
}

// Default returns the defaults.
func Default() Config {
	return Config{Source: sourceArchive, Concurrency: 2, MaxPending: 10_000, MaxIDs: 2_000_000, SessionTimeout: 10 * time.Second, RetryMin: time.Second, RetryMax: time.Minute, ClockSlack: time.Minute,
		Druid: Druid{Datasource: "usage_events", Timeout: time.Minute, MaxBytes: 4 << 20, Columns: Columns{Time: "__time", Account: "account", Pack: "pack",
			Status: "status", Provider: "provider", Quantity: "quantity", Amount: "amount_micros"}}}
}

// Validate returns everything that is wrong, joined.
func (c Config) Validate() error {
	var errs []error
	check := func(ok bool, text string) {
		if !ok {
			errs = append(errs, errors.New(text))
		}
	}
	check(c.Source == sourceArchive || c.Source == sourceDruid, "source is neither archive nor druid")
	check(c.Concurrency >= 1 && c.Concurrency <= 64, "concurrency is not between 1 and 64")
	check(c.MaxPending >= 1 && c.MaxPending <= 1_000_000, "max_pending is not between 1 and 1000000")
	check(c.MaxIDs >= 1000, "max_ids is below 1000")
	check(c.SessionTimeout >= time.Second, "session_timeout is below 1s")
	check(c.RetryMin >= 10*time.Millisecond && c.RetryMax >= c.RetryMin, "retry_min is below 10ms or above retry_max")
	check(c.ClockSlack >= 0 && c.ClockSlack <= time.Hour, "clock_slack is not between 0 and 1h")
	if c.Source == sourceDruid {
		u, err := url.Parse(c.Druid.URL)
		check(err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && u.User == nil, "druid.url is no http or https address without a user")
		check(c.Druid.Datasource != "", "druid.datasource is empty")
		check(c.Druid.Token == "" || c.Druid.User == "", "druid.token and druid.user exclude each other")
		check(c.Druid.Timeout >= time.Second, "druid.timeout is below 1s")
		check(c.Druid.MaxBytes >= 1<<10, "druid.max_bytes is below 1024")
		n := c.Druid.Columns
		for _, name := range []string{n.Time, n.Account, n.Pack, n.Status, n.Provider, n.Quantity, n.Amount} {
			check(name != "", "a name in druid.columns is empty")
		}
	}
	return errors.Join(errs...)
}
