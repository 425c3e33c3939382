// Command instance runs the archiver exactly as its own program does, but kills itself with SIGKILL at a step of a cut.
// Random kills almost never hit the places between two effects.
//
//	CRASH_POINT  the name of the step (see databus/services/archiver)
//	CRASH_AFTER  how often it is passed before; default 0
//	CRASH_FILE   gets the name of the step before the process dies, to prove that it was reached
package main

import (
	"context"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"

	"databus/pkg/service"
	"databus/services/archiver"
)

func main() {
	def := archiver.Definition()
	start := def.New
	def.New = func(ctx context.Context, env *service.Env, cfg archiver.Config) (service.Runner, error) {
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
		n := left.Add(-1)
		if n >= 0 {
			return nil
		}
		if n < -1 {
			select {} // another worker is dying
		}
		if err := os.WriteFile(file, []byte(at), 0o600); err != nil {
			return err
		}
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // until the signal arrives nothing may happen
	}
}
