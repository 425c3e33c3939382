// Command bench-aggregator measures the usage aggregator against Kafka Streams; see package databus/test/bench/aggregator.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"databus/test/bench/aggregator"
)

func main() {
	var o aggregator.Options
	var consume bool
	var relay time.Duration
	var brokers, registry string
	flag.IntVar(&o.Events, "events", 0, "number of events (default 3,000,000)")
	flag.IntVar(&o.Keys, "keys", 0, "rows of account, pack and period (default 90,000)")
	flag.IntVar(&o.Pairs, "pairs", 0, "runs of each contender (default 3)")
	flag.StringVar(&o.Variant, "variant", "", "plain or dedup; both if empty")
	flag.StringVar(&o.Only, "only", "", "databus or streams; both if empty")
	flag.BoolVar(&o.Quick, "quick", false, "throughput only: no restarts, no latency")
	flag.StringVar(&o.Listen, "listen", "", "operators' port of databus while it runs")
	flag.StringVar(&o.Dir, "dir", "", "directory of binaries, state and logs; a temporary one if empty")
	flag.Func("set", "another setting of databus, key=value; may be repeated", func(s string) error { o.Set = append(o.Set, s); return nil })
	flag.BoolVar(&consume, "consume", false, "read and decode the input and end: the ceiling, as the bench runs it")
	flag.DurationVar(&relay, "relay", 0, "copy the input in transactions so far apart, until interrupted: what latency is compared with, as the bench runs it")
	flag.StringVar(&brokers, "brokers", "", "of --consume and --relay")
	flag.StringVar(&registry, "registry", "", "of --consume")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if consume {
		if _, err := aggregator.Consume(ctx, brokers, registry); err != nil {
			fmt.Fprintln(os.Stderr, "bench-aggregator:", err)
			os.Exit(1)
		}
		return
	}
	if relay > 0 {
		if err := aggregator.Relay(ctx, brokers, relay); err != nil {
			fmt.Fprintln(os.Stderr, "bench-aggregator:", err)
			os.Exit(1)
		}
		return
	}
	if err := aggregator.Run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench-aggregator:", err)
		os.Exit(1)
	}
}
