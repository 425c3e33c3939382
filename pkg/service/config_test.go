package service

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"databus/schemas"
)

// probeConfig has one field of every kind that a service may have.
type probeConfig struct {
	Listen   string        `doc:"Address of the front."`
	Window   time.Duration `doc:"How long event ids are remembered."`
	Token    Secret
	Workers  int
	Deep     deepConfig
	Topics   map[string]topicConfig
	Accounts []string
	Enabled  bool
	Ratio    float64
}

type deepConfig struct {
	MaxRows int64
	CAFile  string
}

type topicConfig struct{ Rows int64 }

func (c probeConfig) Validate() error {
	var errs []error
	if c.Workers < 1 {
		errs = append(errs, fmt.Errorf("workers: %d is less than 1", c.Workers))
	}
	if c.Window <= 0 {
		errs = append(errs, errors.New("window: must be above zero"))
	}
	return errors.Join(errs...)
}

// probe is called like a service of the catalogue, so that sections of the others are known.
func probe() Definition[probeConfig] {
	return Definition[probeConfig]{
		Name: "usage-aggregator", Summary: "a service for tests",
		Topology: schemas.Topology{Service: "usage-aggregator", Edges: []schemas.Edge{{Kind: schemas.Source, Topic: schemas.UsageEvents, Group: "g"}}},
		Default: func() probeConfig {
			return probeConfig{Listen: ":8080", Window: time.Hour, Workers: 2, Deep: deepConfig{MaxRows: 5},
				Topics: map[string]topicConfig{"usage.events": {Rows: 7}}}
		},
		New: func(ctx context.Context, env *Env, cfg probeConfig) (Runner, error) {
			return RunnerFunc(func(ctx context.Context) error { <-ctx.Done(); return nil }), nil
		},
	}
}

func configFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPrecedence(t *testing.T) {
	file := configFile(t, `
kafka:
  brokers: [file:1, file:2]
  max_message_bytes: 2000
registry:
http: {listen: "127.0.0.1:1"}
drain_timeout: 5s
usage-aggregator:
  window: 2h
  workers: 3
  listen: ":1"
  topics:
    databus.records: {rows: 9}
limiter:
  anything: goes
`)
	l, err := Load(probe().Service(), Sources{File: file,
		Environ: []string{
			"PATH=/bin",
			"DATABUS_KAFKA__BROKERS=shared:1, shared:2",
			"DATABUS_INSTANCE__ID=shared",
			"DATABUS_USAGE_AGGREGATOR_INSTANCE__ID=special",
			"DATABUS_USAGE_AGGREGATOR_WORKERS=4",
			"DATABUS_USAGE_AGGREGATOR_DEEP__MAX_ROWS=6",
			"DATABUS_USAGE_AGGREGATOR_ENABLED=true",
			"DATABUS_USAGE_AGGREGATOR_LISTEN=:2",
			"DATABUS_LIMITER_SOMETHING=of the others",
		},
		Set: []string{"usage-aggregator.listen=:3", "usage-aggregator.accounts=a,b", "usage-aggregator.ratio=0.5", "kafka.sasl.user=u=v"},
	})
	if err != nil {
		t.Fatal(err)
	}
	c, own := l.Config, l.own.(probeConfig)
	for _, check := range []struct {
		what      string
		got, want any
	}{
		{"environment over file", strings.Join(c.Kafka.Brokers, " "), "shared:1 shared:2"},
		{"file over default", c.Kafka.MaxMessageBytes, int32(2000)},
		{"duration in file", c.DrainTimeout, 5 * time.Second},
		{"empty section leaves defaults", c.Registry.URL, DefaultConfig().Registry.URL},
		{"special over shared environment", c.Instance.ID, "special"},
		{"default stays", c.Log.Format, "json"},
		{"value with =", c.Kafka.SASL.User, "u=v"},
		{"own environment over file", own.Workers, 4},
		{"own file over default", own.Window, 2 * time.Hour},
		{"own nested environment", own.Deep.MaxRows, int64(6)},
		{"set over environment", own.Listen, ":3"},
		{"list by comma", strings.Join(own.Accounts, " "), "a b"},
		{"bool", own.Enabled, true},
		{"float", own.Ratio, 0.5},
		{"a map's own keys", own.Topics["databus.records"].Rows, int64(9)},
		{"a map's default keys", own.Topics["usage.events"].Rows, int64(7)},
	} {
		if check.got != check.want {
			t.Errorf("%s: got %v, want %v", check.what, check.got, check.want)
		}
	}
}

func TestAllErrorsAtOnce(t *testing.T) {
	file := configFile(t, `
kafka: {broker: [a:1]}
drain_timeout: 10
log: {level: loud}
usage-aggregator:
  windw: 1h
  workers: 0
  window: 0s
`)
	_, err := Load(probe().Service(), Sources{File: file,
		Environ: []string{"DATABUS_KAFKA__BROKRES=a:1", "DATABUS_USAGE_AGGREGATOR_WORKER=1", "DATABUS_DEV_HOME=/ignored"},
		Set:     []string{"usage-aggregator.lisen=:1", "nothing"}})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		"kafka.broker: unknown key; did you mean kafka.brokers?",
		"usage-aggregator.windw: unknown key; did you mean usage-aggregator.window?",
		"DATABUS_KAFKA__BROKRES: unknown variable; did you mean DATABUS_KAFKA__BROKERS?",
		"DATABUS_USAGE_AGGREGATOR_WORKER: unknown variable; did you mean DATABUS_USAGE_AGGREGATOR_WORKERS?",
		"usage-aggregator.lisen: unknown key; did you mean usage-aggregator.listen?",
		`"nothing": write --set key=value`,
		`drain_timeout: 10 is no duration; write a unit, such as "10s"`,
		`log.level: "loud" is unknown`,
		"usage-aggregator.workers: 0 is less than 1",
		"usage-aggregator.window: must be above zero",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("missing %q in:\n%v", want, err)
		}
	}
	if n := len(unjoin(err)); n != 10 {
		t.Errorf("%d errors instead of 10:\n%v", n, err)
	}
	if strings.Contains(err.Error(), "DATABUS_DEV_HOME") {
		t.Error("a variable of another program is reported")
	}
}

func TestSharedValidation(t *testing.T) {
	for name, spoil := range map[string]func(*Config){
		"kafka.brokers":           func(c *Config) { c.Kafka.Brokers = nil },
		"no address":              func(c *Config) { c.Kafka.Brokers = []string{"host"} },
		"kafka.max_message_bytes": func(c *Config) { c.Kafka.MaxMessageBytes = 1 },
		"kafka.tls":               func(c *Config) { c.Kafka.TLS.CAFile = "x" },
		"kafka.sasl:":             func(c *Config) { c.Kafka.SASL.Mechanism = "plain" },
		"kafka.sasl.mechanism":    func(c *Config) { c.Kafka.SASL.Mechanism = "magic" },
		"registry.url":            func(c *Config) { c.Registry.URL = "host:8081" },
		"credentials":             func(c *Config) { c.Registry.URL = "http://u:p4ss@host" },
		"instance.id":             func(c *Config) { c.Instance.ID = "../x" },
		"instance.state_dir":      func(c *Config) { c.Instance.StateDir = "" },
		"http.listen":             func(c *Config) { c.HTTP.Listen = "9464" },
		"log.level":               func(c *Config) { c.Log.Level = "loud" },
		"log.format":              func(c *Config) { c.Log.Format = "xml" },
		"trace.endpoint":          func(c *Config) { c.Trace.Endpoint = "collector" },
		"trace.sample_ratio":      func(c *Config) { c.Trace.SampleRatio = 2 },
		"ready.stuck_after":       func(c *Config) { c.Ready.StuckAfter = 0 },
		"drain_timeout":           func(c *Config) { c.DrainTimeout = 0 },
	} {
		c := DefaultConfig()
		c.Instance.ID = "i"
		if err := c.Validate(); err != nil {
			t.Fatal(err)
		}
		spoil(&c)
		err := c.Validate()
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), "p4ss") {
			t.Errorf("a password is in the error: %v", err)
		}
	}
}

func TestSecretsNeverPrint(t *testing.T) {
	const secret = "hunter2"
	s := Secret(secret)
	j, _ := json.Marshal(map[string]any{"s": s})
	y, _ := yaml.Marshal(map[string]any{"s": s})
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "s", s, "in", probeConfig{Token: s})
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "s", s, "in", probeConfig{Token: s})
	all := strings.Join([]string{string(j), string(y), log.String(),
		fmt.Sprintf("%v %s %q %x %d %#v %+v", s, s, s, s, s, s, struct{ S Secret }{s})}, "\n")
	if strings.Contains(all, secret) || strings.Contains(all, "68756e74657232") {
		t.Errorf("the secret is printed:\n%s", all)
	}
	if s.Reveal() != secret {
		t.Error("Reveal gives another string")
	}

	var out, errs bytes.Buffer
	code := run(probe().Service(), []string{"--print-config", "--set", "usage-aggregator.token=" + secret},
		[]string{"DATABUS_KAFKA__SASL__PASSWORD=" + secret, "DATABUS_KAFKA__SASL__USER=u", "DATABUS_KAFKA__SASL__MECHANISM=plain"}, nil, &out, &errs)
	if code != 0 {
		t.Fatal(errs.String())
	}
	if strings.Contains(out.String()+errs.String(), secret) || strings.Count(out.String(), redacted) != 2 {
		t.Errorf("printed configuration:\n%s", out.String())
	}
	// A secret that cannot be used is not repeated either.
	errs.Reset()
	run(probe().Service(), []string{"--validate", "--set", "usage-aggregator.token=" + secret, "--set", "usage-aggregator.workers=many"}, nil, nil, &out, &errs)
	if !strings.Contains(errs.String(), "usage-aggregator.workers") || strings.Contains(errs.String(), secret) {
		t.Errorf("errors:\n%s", errs.String())
	}
}

// TestPrintedConfigLoads proves that the printed configuration is a configuration file, and the same configuration.
func TestPrintedConfigLoads(t *testing.T) {
	var first, second, errs bytes.Buffer
	if code := run(probe().Service(), []string{"--print-config", "--set", "usage-aggregator.window=90s", "--set", "instance.id=007", "--set", "usage-aggregator.listen=true"}, nil, nil, &first, &errs); code != 0 {
		t.Fatal(errs.String())
	}
	file := configFile(t, first.String())
	if code := run(probe().Service(), []string{"--print-config", "--config", file}, nil, nil, &second, &errs); code != 0 {
		t.Fatal(errs.String())
	}
	if first.String() != second.String() {
		t.Errorf("printed:\n%s\nloaded and printed:\n%s", first.String(), second.String())
	}
	for _, want := range []string{"window: 1m30s", "drain_timeout: 25s", "# How long event ids are remembered.", `id: "007"`, `listen: "true"`} {
		if !strings.Contains(first.String(), want) {
			t.Errorf("missing %q in:\n%s", want, first.String())
		}
	}
	defaults, err := probe().Service().DefaultYAML()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(defaults), "usage-aggregator:") {
		t.Errorf("defaults:\n%s", defaults)
	}
}

func TestCommandLine(t *testing.T) {
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--validate"}, 0, "ok\n"},
		{[]string{"--validate", "--set", "log.level=loud", "--set", "log.format=xml"}, 1, "log.format"},
		{[]string{"--validate", "--config", "/does/not/exist.yaml"}, 1, "--print-config prints one"},
		{[]string{"--validate", "--config", configFile(t, "a: [")}, 1, "config.yaml"},
		{[]string{"--vaildate"}, 2, "not defined"},
		{[]string{"surplus"}, 2, "unexpected argument"},
		{[]string{"--help"}, 0, "DATABUS_USAGE_AGGREGATOR_"},
		{[]string{"--version"}, 0, "usage-aggregator "},
	} {
		var out, errs bytes.Buffer
		code := run(probe().Service(), c.args, nil, nil, &out, &errs)
		if all := out.String() + errs.String(); code != c.code || !strings.Contains(all, c.want) {
			t.Errorf("%v: exit code %d, %s", c.args, code, all)
		}
	}
}

func TestStartOverlaysOwnKeys(t *testing.T) {
	var got probeConfig
	def := probe()
	def.New = func(_ context.Context, _ *Env, cfg probeConfig) (Runner, error) { got = cfg; return nil, nil }
	if _, err := def.Service().Start(t.Context(), nil, map[string]any{"workers": 9, "window": "3s", "deep": map[string]any{"max_rows": 1}}); err != nil {
		t.Fatal(err)
	}
	if got.Workers != 9 || got.Window != 3*time.Second || got.Deep.MaxRows != 1 || got.Listen != ":8080" {
		t.Errorf("%+v", got)
	}
	for want, overrides := range map[string]map[string]any{
		"did you mean workers": {"worker": 1},
		"is less than 1":       {"workers": 0},
	} {
		if _, err := def.Service().Start(t.Context(), nil, overrides); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v", overrides, err)
		}
	}
}

func TestSnake(t *testing.T) {
	got := []string{}
	for _, s := range []string{"StateDir", "CAFile", "URL", "HTTPListen", "PersonID", "A", "MaxRows2"} {
		got = append(got, snake(s))
	}
	if want := []string{"state_dir", "ca_file", "url", "http_listen", "person_id", "a", "max_rows2"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
