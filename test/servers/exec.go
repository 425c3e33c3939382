package servers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"databus/test/process"
)

// Exec runs a command with the set's addresses in its environment and its output passed on, and returns its exit code.
// When ctx ends, the command and all it started get SIGTERM, and SIGKILL a minute later. The error says that the command could
// not be run, was interrupted, or that a server ended by itself meanwhile, which explains the command's failure.
func Exec(ctx context.Context, set *Set, command []string) (code int, err error) {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), set.Env()...)
	c, err := process.Start(cmd)
	if err != nil {
		return 127, fmt.Errorf("running %s: %w", strings.Join(command, " "), err)
	}
	select {
	case <-c.Done():
	case <-ctx.Done():
		c.Signal(syscall.SIGTERM)
		var left error
		if !c.Ends(stopGrace) {
			left = c.Kill()
		}
		err = errors.Join(fmt.Errorf("running %s: interrupted", strings.Join(command, " ")), left)
	}
	// What the command started and left behind, such as the test binaries of a killed `go test`.
	_ = syscall.Kill(-c.PID, syscall.SIGKILL)
	if err != nil {
		return 130, err
	}
	if dead := set.Dead(); dead != nil {
		err = dead
	}
	var exit *exec.ExitError
	switch {
	case c.Err() == nil:
		return 0, err
	case errors.As(c.Err(), &exit) && exit.ExitCode() >= 0:
		return exit.ExitCode(), err
	default: // by a signal
		return 128, errors.Join(fmt.Errorf("running %s: %w", strings.Join(command, " "), c.Err()), err)
	}
}
