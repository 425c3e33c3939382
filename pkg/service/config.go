package service

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"

	"databus/pkg/seal/kmsuri"
)

// Config is the part of the configuration that every service has. Lists may be given as comma-separated text, durations
// as "10s", "5m".
type Config struct {
	Kafka    KafkaConfig
	Registry RegistryConfig
	Bucket   BucketConfig
	Identity IdentityConfig
	Keys     KeysConfig
	Instance InstanceConfig
	HTTP     HTTPConfig
	Log      LogConfig
	Trace    TraceConfig
	Ready    ReadyConfig
	// DrainTimeout bounds the orderly end.
	DrainTimeout time.Duration `doc:"How long the end may take after SIGTERM; what still runs then is named and given up."`
}

// KafkaConfig says how to reach the brokers.
type KafkaConfig struct {
	Brokers         []string   `doc:"Addresses to start from, host:port."`
	TLS             TLSConfig  `doc:"TLS to the brokers."`
	SASL            SASLConfig `doc:"Authentication at the brokers."`
	MaxMessageBytes int32      `doc:"Largest record batch to produce, in bytes; at most the broker's message.max.bytes."`
}

// TLSConfig says how a connection is encrypted.
type TLSConfig struct {
	Enabled  bool
	CAFile   string `doc:"PEM file of the authorities to trust; empty means the system's."`
	CertFile string `doc:"PEM file of the client's certificate, for mutual TLS."`
	KeyFile  string `doc:"PEM file of the client's key."`
}

// SASLConfig says how to authenticate.
type SASLConfig struct {
	Mechanism string `doc:"plain, scram-sha-256 or scram-sha-512; empty means none."`
	User      string
	Password  Secret
}

// RegistryConfig says where the schema registry is.
type RegistryConfig struct {
	URL             string `koanf:"url" doc:"Base URL of the registry's Confluent API."`
	RegisterSchemas bool   `doc:"Register schemas that are missing instead of refusing to produce; leave it off where the pipeline registers them."`
}

// BucketConfig names the bucket of the archive, of graphs and of rebuilt tables.
type BucketConfig struct {
	URL string `koanf:"url" doc:"file:///directory or s3://bucket/prefix?endpoint=...; credentials come from the AWS environment."`
}

// IdentityConfig names the identity store.
type IdentityConfig struct {
	URL string `koanf:"url" doc:"cassandra://host:9042,host:9042?datacenter=... or pebble:///directory."`
}

// KeysConfig says where the secrets are.
type KeysConfig struct {
	File        string `doc:"File of the secrets: the key that wraps data keys, where KMS doesn't, and those of pseudonyms and requests; plain, or wrapped by KMS."`
	KMSURI      string `koanf:"kms_uri" doc:"Key of AWS KMS that wraps new data keys: aws-kms://arn:aws:kms:REGION:ACCOUNT:key/ID; credentials come from the AWS environment. Empty: the key that wrapped the file does, or the plain file's own."`
	KMSEndpoint string `koanf:"kms_endpoint" doc:"Base URL of KMS, for a VPC endpoint; empty means AWS's own."`
	Cache       int    `doc:"Most unwrapped data keys in memory, about 0.9 KB each."`
}

// InstanceConfig names one instance of a service.
type InstanceConfig struct {
	ID       string `doc:"Stable name of this instance: it names the transactional id, the group instance and the state. Default: the host name."`
	StateDir string `doc:"Directory of the instance's own state; it survives restarts and belongs to this instance alone."`
}

// HTTPConfig is the operators' port: /metrics, /healthz, /readyz.
type HTTPConfig struct {
	Listen  string `doc:"Address of the operators' port; empty switches it off."`
	Profile bool   `doc:"Serve Go's CPU, heap and other profiles under /debug/pprof there."`
}

// LogConfig says what is logged to standard error.
type LogConfig struct {
	Level  string `doc:"debug, info, warn or error."`
	Format string `doc:"json or text."`
}

// TraceConfig says where traces go.
type TraceConfig struct {
	Endpoint    string  `doc:"OTLP/HTTP endpoint such as http://collector:4318; empty switches tracing off."`
	SampleRatio float64 `doc:"Share of traces that start here and are kept, 0 to 1; a caller's decision is followed."`
}

// ReadyConfig says when a consumer counts as stuck.
type ReadyConfig struct {
	StuckAfter time.Duration `doc:"Not ready when a partition has lag and its position has not moved for this long."`
}

// DefaultConfig returns the defaults: everything on this machine's usual ports.
func DefaultConfig() Config {
	host, _ := os.Hostname()
	return Config{
		Kafka:        KafkaConfig{Brokers: []string{"127.0.0.1:9092"}, MaxMessageBytes: 1_000_000},
		Registry:     RegistryConfig{URL: "http://127.0.0.1:8081"},
		Keys:         KeysConfig{Cache: 4096},
		Instance:     InstanceConfig{ID: host, StateDir: "state"},
		HTTP:         HTTPConfig{Listen: ":9464"},
		Log:          LogConfig{Level: "info", Format: "json"},
		Trace:        TraceConfig{SampleRatio: 0.01},
		Ready:        ReadyConfig{StuckAfter: time.Minute},
		DrainTimeout: 25 * time.Second,
	}
}

// instanceID is what group.instance.id, transactional.id and a directory's name all accept.
var instanceID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$`)

// Validate returns everything that is wrong, joined.
func (c Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if len(c.Kafka.Brokers) == 0 {
		bad("kafka.brokers: at least one address is needed, such as 127.0.0.1:9092")
	}
	for _, b := range c.Kafka.Brokers {
		if _, port, err := net.SplitHostPort(b); err != nil || port == "" {
			bad("kafka.brokers: %q is no address; write host:port", b)
		}
	}
	if n := c.Kafka.MaxMessageBytes; n < 1024 || n > 100<<20 {
		bad("kafka.max_message_bytes: %d is not between 1024 and %d", n, 100<<20)
	}
	if (c.Kafka.TLS.CertFile == "") != (c.Kafka.TLS.KeyFile == "") {
		bad("kafka.tls: cert_file and key_file belong together")
	}
	if !c.Kafka.TLS.Enabled && (c.Kafka.TLS.CAFile != "" || c.Kafka.TLS.CertFile != "") {
		bad("kafka.tls: files are given, but enabled is false")
	}
	switch c.Kafka.SASL.Mechanism {
	case "":
	case "plain", "scram-sha-256", "scram-sha-512":
		if c.Kafka.SASL.User == "" || c.Kafka.SASL.Password == "" {
			bad("kafka.sasl: user and password are needed for %s", c.Kafka.SASL.Mechanism)
		}
	default:
		bad("kafka.sasl.mechanism: %q is unknown; use plain, scram-sha-256 or scram-sha-512", c.Kafka.SASL.Mechanism)
	}
	if err := httpURL(c.Registry.URL); err != nil {
		bad("registry.url: %w", err)
	}
	if c.Keys.KMSURI != "" {
		if _, _, err := kmsuri.Parse(c.Keys.KMSURI); err != nil {
			bad("keys.kms_uri: %w", err)
		}
	}
	if c.Keys.KMSEndpoint != "" {
		if err := httpURL(c.Keys.KMSEndpoint); err != nil {
			bad("keys.kms_endpoint: %w", err)
		}
	}
	if c.Keys.Cache < 1 || c.Keys.Cache > 10_000_000 {
		bad("keys.cache: %d is not between 1 and 10000000", c.Keys.Cache)
	}
	if !instanceID.MatchString(c.Instance.ID) {
		bad("instance.id: %q must be 1 to 100 letters, digits, dots, dashes or underscores, beginning with a letter or digit", c.Instance.ID)
	}
	if c.Instance.StateDir == "" {
		bad("instance.state_dir: a directory is needed")
	}
	if c.HTTP.Listen != "" {
		if _, _, err := net.SplitHostPort(c.HTTP.Listen); err != nil {
			bad("http.listen: %q is no address; write :9464 or 127.0.0.1:9464", c.HTTP.Listen)
		}
	}
	if _, err := logLevel(c.Log.Level); err != nil {
		bad("log.level: %w", err)
	}
	if c.Log.Format != "json" && c.Log.Format != "text" {
		bad("log.format: %q is unknown; use json or text", c.Log.Format)
	}
	if c.Trace.Endpoint != "" {
		if err := httpURL(c.Trace.Endpoint); err != nil {
			bad("trace.endpoint: %w", err)
		}
	}
	if r := c.Trace.SampleRatio; !(r >= 0 && r <= 1) {
		bad("trace.sample_ratio: %v is not between 0 and 1", r)
	}
	if c.Ready.StuckAfter < time.Second {
		bad("ready.stuck_after: %v is less than 1s", c.Ready.StuckAfter)
	}
	if c.DrainTimeout <= 0 {
		bad("drain_timeout: %v is not above zero", c.DrainTimeout)
	}
	return errors.Join(errs...)
}

// httpURL never repeats the URL: it may hold credentials, which do not belong there.
func httpURL(raw string) error {
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return errors.New("it cannot be parsed; write http://host:port/path")
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return errors.New("it does not look like http://host:port/path")
	case u.User != nil:
		return errors.New("it holds credentials, which would end up in logs")
	}
	return nil
}

// prefixed puts a section's name before each of the joined errors.
func prefixed(section string, err error) error {
	var errs []error
	for _, e := range unjoin(err) {
		errs = append(errs, fmt.Errorf("%s.%w", section, e))
	}
	return errors.Join(errs...)
}

// unjoin returns the errors that errors.Join joined, in depth.
func unjoin(err error) []error {
	if err == nil {
		return nil
	}
	if j, ok := err.(interface{ Unwrap() []error }); ok && !strings.Contains(fmt.Sprintf("%T", err), "wrap") {
		var all []error
		for _, e := range j.Unwrap() {
			all = append(all, unjoin(e)...)
		}
		return all
	}
	return []error{err}
}
