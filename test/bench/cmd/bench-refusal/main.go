// Command bench-refusal measures the time from the call that uses up a limit to the first 429, and the calls let through
// meanwhile: `make bench-refusal`.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"time"

	"databus/pkg/embedded"
	"databus/test/bench/refusal"
	"databus/test/measure"
	"databus/test/servers"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	onEmbedded := flag.Bool("embedded", false, "run on the embedded broker instead of a real Kafka")
	level := slog.LevelVar{}
	level.Set(slog.LevelError)
	o := refusal.Options{Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: &level}))}
	flag.TextVar(&level, "log", &level, "what the services log: DEBUG, INFO, WARN or ERROR")
	flag.IntVar(&o.Rate, "rate", 2000, "requests per second")
	flag.IntVar(&o.Accounts, "accounts", 60, "accounts that reach their limits")
	flag.IntVar(&o.AtOnce, "at-once", 10, "accounts that call at a time")
	flag.IntVar(&o.Warm, "warm", 15, "groups of accounts that call before the measurement")
	flag.Int64Var(&o.Limit, "limit", 400, "limit of each account, in calls")
	flag.DurationVar(&o.Commit, "commit", 20*time.Millisecond, "commit interval of aggregator and limiter")
	flag.Parse()
	if err := run(ctx, o, *onEmbedded); err != nil {
		fmt.Fprintln(os.Stderr, "bench-refusal:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o refusal.Options, onEmbedded bool) (err error) {
	stack, err := embedded.StartStack(embedded.StackOptions{}) // the registry, and the broker if it is wanted
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stack.Close()) }()
	o.Registry, o.Brokers = stack.Registry.URL(), stack.Broker.Seeds()
	broker := "embedded broker"
	if !onEmbedded {
		kafka, err := servers.StartKafka(ctx, servers.Options{})
		if err != nil {
			return err
		}
		defer kafka.Close()
		o.Brokers, broker = []string{kafka.Addr}, "one real broker"
	}
	machine := measure.Watch()
	r, err := refusal.Run(ctx, o)
	if err != nil {
		return err
	}
	var ms []float64
	for _, d := range r.Delays {
		ms = append(ms, float64(d.Microseconds())/1000)
	}
	var mean, predicted float64
	for i := range r.Overshoot {
		mean += float64(r.Overshoot[i]) / float64(len(r.Overshoot))
		predicted += r.Predicted[i] / float64(len(r.Predicted))
	}
	fmt.Printf("%d accounts, %d at a time, %.0f of %d requests/s, commit interval %v, %s, %d restarts of services, %d usage events lost, load average %s\n",
		o.Accounts, o.AtOnce, float64(r.Requests)/r.Seconds, o.Rate, o.Commit, broker, r.Restarts, r.Dropped, machine.Load())
	for _, f := range []measure.Figure{
		{Name: "refusal_p50_ms", Value: measure.Quantile(ms, 0.5), Unit: "ms", None: true},
		{Name: "refusal_p99_ms", Value: measure.Quantile(ms, 0.99), Unit: "ms", None: true},
		{Name: "overshoot_worst_calls", Value: float64(slices.Max(r.Overshoot)), Unit: "calls", None: true},
		{Name: "overshoot_mean_calls", Value: mean, Unit: "calls", None: true},
		{Name: "overshoot_predicted_calls", Value: predicted, Unit: "calls", None: true},
		{Name: "overshoot_mean_seen_by_view_calls", Value: float64(r.View.Units) / float64(max(1, r.View.Crossings)), Unit: "calls", None: true},
	} {
		f.Print(os.Stdout)
	}
	return nil
}
