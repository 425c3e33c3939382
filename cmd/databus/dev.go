package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"databus/cmd/databus/internal/local"
)

type devCmd struct {
	stackFlags
	API          string `default:"127.0.0.1:8080" placeholder:"HOST:PORT" help:"Address of ingest's API."`
	BrokerPort   int    `default:"9092" help:"Port of the embedded broker; 0 means any free one."`
	RegistryPort int    `default:"8081" help:"Port of the embedded registry; 0 means any free one."`
}

func (devCmd) Help() string {
	return `Runs every service in this process: ingest, archiver, usage-aggregator, usage-history, limiter, rebuilder and catchup, on an embedded
broker, registry, bucket and database, with all state below one directory (--dir). Stop it with Ctrl-C; started again on
the same directory it goes on where it was, also after kill -9. With --external it runs on real servers.

Examples:

    databus dev
    databus --dir /tmp/databus dev --api 127.0.0.1:8888
    databus dev --external --brokers 127.0.0.1:9092 --registry http://127.0.0.1:8081 \
        --identity-url 'cassandra://127.0.0.1:9042?replication=1'

and in another terminal:

    curl -d '{"record_id":"r1","fields":{"email":"anna@mail.example"}}' '127.0.0.1:8080/v1/accounts/acme/records?wait=applied'
    curl 127.0.0.1:8080/v1/accounts/acme/records/r1
    databus consume usage.counts --follow
`
}

// Run serves until it is interrupted.
func (c devCmd) Run(ctx context.Context, g *Globals) error {
	cfg, err := c.config(g, g.Dir)
	if err != nil {
		return err
	}
	cfg.API, cfg.BrokerPort, cfg.RegistryPort = c.API, c.BrokerPort, c.RegistryPort
	log, closeLog, err := logFile(g.Dir)
	if err != nil {
		return err
	}
	defer closeLog() //nolint:errcheck // nothing is written any more
	cfg.Log = log
	begin := time.Now()
	stack, err := local.Start(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() {
		_ = os.Remove(filepath.Join(g.Dir, devFile)) // it names a process that has ended
	}()
	err = c.serve(ctx, g, stack, begin)
	if cerr := stack.Close(); err == nil {
		err = cerr
	}
	return err
}

func (c devCmd) serve(ctx context.Context, g *Globals, stack *local.Stack, begin time.Time) error {
	unpublish, err := publish(stack, g.Dir)
	if err != nil {
		return err
	}
	defer unpublish()
	if n := len(stack.Prepared); n > 0 {
		fmt.Fprintf(g.Err, "prepared %d things: topics, schemas, the first graph and database\n", n)
	}
	if err := stack.Ready(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	fmt.Fprintf(g.Out, "databus is ready after %.1f s\n  API       %s\n  brokers   %v\n  registry  %s\n  log       %s\nTry `databus dev --help` for what to do next; Ctrl-C stops it.\n",
		time.Since(begin).Seconds(), stack.APIURL, stack.Brokers, stack.RegistryURL, filepath.Join(g.Dir, "databus.log"))
	<-ctx.Done()
	fmt.Fprintln(g.Err, "stopping")
	return nil
}
