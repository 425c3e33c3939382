// Command bench-ingest measures records/s from HTTP batches to applied rows beside the driver alone, and the latency of
// single calls, on a real Kafka and a real Cassandra: `make bench-ingest`.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"

	"databus/pkg/embedded"
	"databus/test/bench/ingest"
	"databus/test/measure"
	"databus/test/servers"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	o := ingest.Options{Say: func(format string, args ...any) { fmt.Printf(format+"\n", args...) }}
	flag.IntVar(&o.Records, "records", 20_000, "records of a round, half of them new, then each moves")
	flag.IntVar(&o.Rounds, "rounds", 3, "rounds of each contender, one to warm up aside")
	flag.IntVar(&o.Rate, "rate", 200, "single calls per second")
	flag.DurationVar(&o.Duration, "duration", 30*time.Second, "of the single calls")
	set := flag.String("set", "", "settings of ingest, key=value,key=value")
	flag.Parse()
	if *set != "" {
		o.Set = strings.Split(*set, ",")
	}
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench-ingest:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o ingest.Options) (err error) {
	if o.Dir, err = os.MkdirTemp("", "bench-ingest-"); err != nil {
		return err
	}
	defer func() {
		if err == nil {
			err = os.RemoveAll(o.Dir)
		} else {
			fmt.Fprintln(os.Stderr, "logs are in", o.Dir)
		}
	}()
	registry, err := embedded.StartRegistry(embedded.RegistryOptions{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, registry.Close()) }()
	kafka, err := servers.StartKafka(ctx, servers.Options{})
	if err != nil {
		return err
	}
	defer kafka.Close()
	cassandra, err := servers.StartCassandra(ctx, servers.Options{})
	if err != nil {
		return err
	}
	defer cassandra.Close()
	o.Brokers, o.Cassandra, o.Registry = []string{kafka.Addr}, []string{cassandra.Addr}, registry.URL()
	machine := measure.Watch()
	r, err := ingest.Run(ctx, o)
	if err != nil {
		return err
	}
	fmt.Printf("%d rounds of %d records, %d rows equal in both keyspaces; %d single calls at %d/s, %d of them failed; load average %s\n",
		o.Rounds, o.Records, r.Rows, len(r.Latencies), o.Rate, r.Failed, machine.Load())
	for _, f := range []measure.Figure{
		{Name: "ingest_records_per_second", Value: measure.Median(r.Ingest), Unit: "records/s", None: true},
		{Name: "driver_records_per_second", Value: measure.Median(r.Driver), Unit: "records/s", None: true},
		{Name: "ingest_cpu_us_per_record", Value: measure.Median(r.CPU), Unit: "us", None: true},
		{Name: "rate_to_driver_ratio", Value: measure.Median(r.Share), Unit: "ratio", Goal: 0.9},
		{Name: "api_p50_ms", Value: measure.Quantile(r.Latencies, 0.5), Unit: "ms", None: true},
		{Name: "api_p99_ms", Value: measure.Quantile(r.Latencies, 0.99), Unit: "ms", Goal: 25, AtMost: true},
	} {
		f.Print(os.Stdout)
	}
	return nil
}
