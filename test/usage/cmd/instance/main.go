// Command instance runs usage-aggregator or limiter, named by its first argument, exactly as their own programs do, but
// kills itself with SIGKILL at a point of the exactly-once loop, or stops itself with SIGSTOP in the middle of a transaction, the
// next one behind a SIGUSR1. Signals from outside almost never hit the places between two steps.
//
//	CRASH_POINT  the name of the point (see databus/pkg/stream)
//	CRASH_AFTER  how often it is passed before; default 0
//	CRASH_FILE   gets the name of the point before the process dies, to prove that it was reached
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"sync/atomic"
	"syscall"

	"databus/pkg/service"
	"databus/pkg/stream"
	"databus/services/limiter"
	usageaggregator "databus/services/usage-aggregator"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "instance: name a service")
		os.Exit(2)
	}
	name := os.Args[1]
	os.Args = append(os.Args[:1], os.Args[2:]...)
	switch name {
	case usageaggregator.Name:
		service.Main(crashing(usageaggregator.Definition()))
	case limiter.Name:
		service.Main(crashing(limiter.Definition()))
	default:
		fmt.Fprintf(os.Stderr, "instance: there is no service %q in the usage half\n", name)
		os.Exit(2)
	}
}

// crashing is the service with the hook.
func crashing[C any](def service.Definition[C]) service.Definition[C] {
	start := def.New
	def.New = func(ctx context.Context, env *service.Env, cfg C) (service.Runner, error) {
		if os.Getenv("CRASH_POINT") == "" {
			env.Crash = freezer()
			return start(ctx, env, cfg)
		}
		env.Crash = hook(os.Getenv("CRASH_POINT"), os.Getenv("CRASH_AFTER"), os.Getenv("CRASH_FILE"))
		return start(ctx, env, cfg)
	}
	return def
}

// freezer stops the process where everything is produced and nothing committed.
func freezer() func(string) error {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR1)
	return func(at string) error {
		if at == string(stream.AfterFlush) {
			select {
			case <-asked:
				return syscall.Kill(os.Getpid(), syscall.SIGSTOP)
			default:
			}
		}
		return nil
	}
}

func hook(point, after, file string) func(string) error {
	n, _ := strconv.Atoi(after)
	var left atomic.Int64
	left.Store(int64(n))
	return func(at string) error {
		if at != point || left.Add(-1) >= 0 {
			return nil
		}
		if err := os.WriteFile(file, []byte(at), 0o600); err != nil {
			return err
		}
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // until the signal arrives nothing may happen
	}
}
