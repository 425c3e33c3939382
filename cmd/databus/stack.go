package main

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"databus/cmd/databus/internal/local"
)

// stackFlags say on what a local Databus runs; `dev` and `demo` share them.
type stackFlags struct {
	External    bool   `help:"Run on real servers instead of embedded parts: --brokers and --registry are needed, --bucket-url and --identity-url are used where given."`
	BucketURL   string `env:"DATABUS_BUCKET__URL" placeholder:"URL" help:"Bucket, such as s3://bucket/prefix?endpoint=http://127.0.0.1:7070&path_style=true; default: a directory."`
	IdentityURL string `env:"DATABUS_IDENTITY__URL" placeholder:"URL" help:"Identity store, such as cassandra://127.0.0.1:9042?replication=1; default: the embedded one."`
	KeysFile    string `env:"DATABUS_KEYS__FILE" placeholder:"FILE" help:"File of the secrets; made if it does not exist; default: keys.json in the directory."`
	ArchiveIdle string `hidden:"" default:"2s"`
}

// config is the local Databus that the flags describe, in a directory.
func (f stackFlags) config(g *Globals, dir string) (local.Config, error) {
	cfg := local.Config{
		Dir: dir, KeysFile: f.KeysFile, API: "127.0.0.1:0",
		External: local.External{Bucket: f.BucketURL, Identity: f.IdentityURL},
		Settings: map[string]map[string]any{
			// Files are cut soon, so that there is something to see and to rebuild from.
			"archiver": {"idle": f.ArchiveIdle},
			// One machine, few events: limits that are milliseconds old cost nothing.
			"usage-aggregator": {"commit_interval": "20ms"},
			"limiter":          {"commit_interval": "20ms"},
		},
	}
	if !f.External {
		if len(g.Brokers) > 0 || g.Registry != "" {
			return cfg, fmt.Errorf("--brokers and --registry name real servers; add --external, or leave them out to run on embedded parts")
		}
		return cfg, nil
	}
	if len(g.Brokers) == 0 || g.Registry == "" {
		return cfg, fmt.Errorf("--external needs --brokers and --registry")
	}
	cfg.External.Brokers, cfg.External.Registry = g.Brokers, g.Registry
	return cfg, nil
}

// logFile opens DIR/databus.log: the services' log would drown what a person came to see.
func logFile(dir string) (*slog.Logger, func() error, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, nil, fmt.Errorf("making the directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "databus.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, nil, fmt.Errorf("opening the log: %w", err)
	}
	return slog.New(slog.NewJSONHandler(f, nil)), f.Close, nil
}

// publish leaves the addresses of a running stack in its directory, for other commands, and answers them until stop is
// called.
func publish(stack *local.Stack, dir string) (stop func(), err error) {
	tools, stop, err := serveTools(stack.Stores)
	if err != nil {
		return nil, err
	}
	err = devState{Brokers: stack.Brokers, Registry: stack.RegistryURL, HTTP: stack.APIURL, Bucket: stack.BucketURL, Tools: tools}.write(dir)
	if err != nil {
		stop()
		return nil, err
	}
	return stop, nil
}
