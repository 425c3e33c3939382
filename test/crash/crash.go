// Package crash makes a service kill itself with SIGKILL between two of its steps. Signals from outside almost never hit the
// places between two effects.
//
// Promise: a program whose main is Main does exactly what the service's own program does, up to the point that it is told;
// there it dies, nothing more happens in it, and Run knows that it died there and nowhere else.
//
// Concurrency: a service may pass its points in any number of goroutines; of those that reach the point, one dies and the
// others stand still.
//
// Failure: Run's error says that the point was not reached, with the end of the log.
package crash

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"databus/pkg/service"
	"databus/test/process"
)

// What Run tells Main, in the environment.
const (
	pointVariable = "CRASH_POINT" // name of the point, as the service calls it
	afterVariable = "CRASH_AFTER" // how often it is passed before
	fileVariable  = "CRASH_FILE"  // gets the name of the point before the process dies
)

// Point is where a service dies: the step with this name, when it has been passed After times before.
type Point struct {
	Name  string
	After int
}

// Main runs a service. Where no crash is asked for, otherwise is its hook; it may be nil.
func Main[C any](def service.Definition[C], otherwise func(at string) error) {
	start := def.New
	def.New = func(ctx context.Context, env *service.Env, cfg C) (service.Runner, error) {
		env.Crash = otherwise
		if point := os.Getenv(pointVariable); point != "" {
			after, err := strconv.Atoi(os.Getenv(afterVariable))
			if err != nil {
				return nil, fmt.Errorf("reading %s: %w", afterVariable, err)
			}
			env.Crash = hook(Point{point, after}, os.Getenv(fileVariable))
		}
		return start(ctx, env, cfg)
	}
	service.Main(def)
}

func hook(p Point, file string) func(string) error {
	var left atomic.Int64
	left.Store(int64(p.After))
	return func(at string) error {
		if at != p.Name {
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

// Run starts cmd, a program whose main is Main, as p's next run and waits until it has killed itself at the point.
func Run(p *process.Program, cmd *exec.Cmd, point Point, within time.Duration) error {
	file := p.Log + ".point"
	if err := os.RemoveAll(file); err != nil {
		return fmt.Errorf("removing the last point: %w", err)
	}
	cmd.Env = append(cmd.Environ(), pointVariable+"="+point.Name, fmt.Sprint(afterVariable, "=", point.After), fileVariable+"="+file)
	if err := p.Start(cmd); err != nil {
		return err
	}
	if !p.Ends(within) {
		_ = p.Kill()
		return fmt.Errorf("%s did not reach %q within %v:\n%s", p.Name, point.Name, within, p.Tail())
	}
	if !p.Killed() {
		return p.Ended()
	}
	if reached, err := os.ReadFile(file); err != nil || string(reached) != point.Name {
		return fmt.Errorf("%s did not reach %q but %q, %v:\n%s", p.Name, point.Name, reached, err, p.Tail())
	}
	return nil
}
