// Command bench-archiver measures the archiver; see package databus/test/bench/archiver.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"databus/test/bench/archiver"
)

func main() {
	var o archiver.Options
	flag.IntVar(&o.Events, "events", 5_000_000, "number of usage events")
	flag.IntVar(&o.Records, "records", 5_000_000, "number of Databus records")
	flag.IntVar(&o.Runs, "runs", 3, "runs")
	flag.StringVar(&o.Dir, "dir", "", "directory of the binary, the spool and logs; a temporary one if empty")
	flag.Func("set", "another setting of the archiver, key=value; may be repeated", func(s string) error { o.Set = append(o.Set, s); return nil })
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := archiver.Run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench-archiver:", err)
		os.Exit(1)
	}
}
