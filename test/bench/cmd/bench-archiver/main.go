// Command bench-archiver measures the archiver and its peers; see package databus/test/bench/archiver.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"databus/test/bench/archiver"
)

func main() {
	var o archiver.Options
	flag.IntVar(&o.Events, "events", 5_000_000, "number of usage events")
	flag.IntVar(&o.Records, "records", 5_000_000, "number of Databus records")
	flag.IntVar(&o.Runs, "runs", 3, "runs")
	flag.Func("only", "databus, connect and consumer, or fewer of them, divided by commas", func(s string) error { o.Only = strings.Split(s, ","); return nil })
	quick := flag.Bool("quick", false, "500,000 of each, one run")
	flag.StringVar(&o.Dir, "dir", "", "directory of the binary, the spool and logs; a temporary one if empty")
	flag.Func("set", "another setting of the archiver, key=value; may be repeated", func(s string) error { o.Set = append(o.Set, s); return nil })
	flag.Parse()
	if *quick {
		o.Events, o.Records, o.Runs = 500_000, 500_000, 1
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := archiver.Run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench-archiver:", err)
		os.Exit(1)
	}
}
