package service

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
	"github.com/twmb/franz-go/plugin/kotel"

	"databus/schemas"
)

// KafkaOpts returns the options of every Kafka client of a service, extra behind them, so that extra wins: seeds,
// encryption and authentication, client id, the catalogue's partitioner, quick small transactions, limits, log, metrics
// and trace context in record headers. Consumers add kgo.FetchIsolationLevel and their group themselves.
func (e *Env) KafkaOpts(extra ...kgo.Opt) []kgo.Opt {
	opts := []kgo.Opt{
		kgo.SeedBrokers(e.Brokers...),
		kgo.ClientID("databus-" + e.Service + "-" + e.Instance),
		kgo.RecordPartitioner(Partitioner()),
		// The client waits out MetadataMinAge (5 s by default) where a new transaction meets the end of the last one.
		kgo.MetadataMinAge(200 * time.Millisecond),
		kgo.FetchMaxWait(500 * time.Millisecond),
		kgo.WithLogger(kafkaLogger{e.Log}),
	}
	if e.maxMessageBytes > 0 {
		opts = append(opts, kgo.ProducerBatchMaxBytes(e.maxMessageBytes))
	}
	opts = append(opts, e.kafkaSecurity.opts()...)
	if hooks := e.kafkaHooks(); hooks != nil {
		opts = append(opts, kgo.WithHooks(hooks))
	}
	if e.tracing != nil && e.tracing.on {
		tracer := kotel.NewTracer(kotel.TracerProvider(e.tracing.provider), kotel.TracerPropagator(Propagator()), kotel.ClientID(e.Instance))
		opts = append(opts, kgo.WithHooks(kotel.NewKotel(kotel.WithTracer(tracer)).Hooks()...))
	}
	return append(opts, extra...)
}

// Partitioner partitions by the catalogue: murmur2 of the part of the key that the topic names. A record without a key
// goes where the empty key goes.
func Partitioner() kgo.Partitioner {
	return kgo.BasicConsistentPartitioner(func(topic string) func(*kgo.Record, int) int {
		return func(r *kgo.Record, n int) int { return int(schemas.Partition(topic, r.Key, int32(n))) }
	})
}

// security is how connections to the brokers are encrypted, and who a process is at them; nil for none.
type security struct {
	tls  *tls.Config
	sasl sasl.Mechanism
}

func (s security) opts() (opts []kgo.Opt) {
	if s.tls != nil {
		opts = append(opts, kgo.DialTLSConfig(s.tls.Clone()))
	}
	if s.sasl != nil {
		opts = append(opts, kgo.SASL(s.sasl))
	}
	return opts
}

// KafkaSecurity returns the encryption and authentication that KafkaOpts has, for clients of another make; nil for none.
func (e *Env) KafkaSecurity() (*tls.Config, sasl.Mechanism) {
	return e.kafkaSecurity.tls, e.kafkaSecurity.sasl
}

// newSecurity reads the files that the configuration names.
func newSecurity(c KafkaConfig) (s security, err error) {
	if c.TLS.Enabled {
		conf := &tls.Config{MinVersion: tls.VersionTLS12}
		if c.TLS.CAFile != "" {
			pem, err := os.ReadFile(c.TLS.CAFile)
			if err != nil {
				return s, fmt.Errorf("reading kafka.tls.ca_file: %w", err)
			}
			conf.RootCAs = x509.NewCertPool()
			if !conf.RootCAs.AppendCertsFromPEM(pem) {
				return s, fmt.Errorf("reading kafka.tls.ca_file %s: no certificate in it; it must be PEM", c.TLS.CAFile)
			}
		}
		if c.TLS.CertFile != "" {
			cert, err := tls.LoadX509KeyPair(c.TLS.CertFile, c.TLS.KeyFile)
			if err != nil {
				return s, fmt.Errorf("reading kafka.tls.cert_file and key_file: %w", err)
			}
			conf.Certificates = []tls.Certificate{cert}
		}
		s.tls = conf
	}
	switch user, password := c.SASL.User, c.SASL.Password.Reveal(); c.SASL.Mechanism {
	case "plain":
		s.sasl = plain.Auth{User: user, Pass: password}.AsMechanism()
	case "scram-sha-256":
		s.sasl = scram.Auth{User: user, Pass: password}.AsSha256Mechanism()
	case "scram-sha-512":
		s.sasl = scram.Auth{User: user, Pass: password}.AsSha512Mechanism()
	}
	return s, nil
}
