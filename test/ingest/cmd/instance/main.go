// Command instance runs ingest exactly as its own program does, but kills itself with SIGKILL at a point between two steps.
// Random kills almost never hit those places.
//
//	CRASH_POINT  the name of the point (see databus/services/ingest)
//	CRASH_AFTER  how often it is passed before; default 0
//	CRASH_FILE   gets the name of the point before the process dies, to prove that it was reached
package main

import (
	"context"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"

	"databus/pkg/service"
	"databus/services/ingest"
)

func main() {
	def := ingest.Definition()
	start := def.New
	def.New = func(ctx context.Context, env *service.Env, cfg ingest.Config) (service.Runner, error) {
		env.Crash = hook(os.Getenv("CRASH_POINT"), os.Getenv("CRASH_AFTER"), os.Getenv("CRASH_FILE"))
		return start(ctx, env, cfg)
	}
	service.Main(def)
}

func hook(point, after, file string) func(string) error {
	n, _ := strconv.Atoi(after)
	var left atomic.Int64
	left.Store(int64(n))
	return func(at string) error {
		if at != point {
			return nil
		}
		switch n := left.Add(-1); {
		case n >= 0:
			return nil
		case n < -1:
			select {} // somebody else got here first, and writes
		}
		if err := os.WriteFile(file, []byte(at), 0o600); err != nil {
			return err
		}
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // until the signal arrives nothing may happen
	}
}
