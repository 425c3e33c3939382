// Package process runs the programs that tests and benchmarks start, freeze, kill and measure.
//
// Promise: a process that was started here is dead when the one that started it is, however that ended; it leads a process
// group of its own, and signals reach the whole group. A Program is the same across many runs and keeps one log of all of
// them. Binaries are built once. CPU time and memory are what the kernel counted. Linux only.
//
// Concurrency: a Process may be used by any number of goroutines, a Program by one at a time, Binaries by any number.
//
// Failure: errors name the program and carry the end of what its last run printed.
package process

import (
	"fmt"
	"net"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

const (
	killWait  = 30 * time.Second // from SIGKILL until the kernel has reaped the process
	stopGrace = 90 * time.Second // from SIGTERM to SIGKILL
)

// A Process is one run of a program. A nil Process does not run.
type Process struct {
	PID  int
	cmd  *exec.Cmd
	done chan struct{} // closed after the kernel reaped it
	err  error         // set before done is closed
}

// Start starts cmd. Where its output goes is the caller's choice.
func Start(cmd *exec.Cmd) (*Process, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p := &Process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		// The kernel ties Pdeathsig to the thread that forks, so that thread is kept until the process ends; the Go runtime
		// could end it before, and so kill the process.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		p.PID = cmd.Process.Pid
		started <- nil
		p.err = cmd.Wait()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// Running says whether the process has not ended.
func (p *Process) Running() bool {
	if p == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Ends waits until the process has ended, for so long at most, and says whether it has.
func (p *Process) Ends(within time.Duration) bool {
	select {
	case <-p.done:
		return true
	case <-time.After(within):
		return !p.Running()
	}
}

// Err is how a process that has ended did so, as exec.Cmd.Wait says it.
func (p *Process) Err() error { return p.err }

// ExitCode of a process that has ended; -1 where a signal ended it.
func (p *Process) ExitCode() int { return p.cmd.ProcessState.ExitCode() }

// CPU is what a process that has ended used of all cores.
func (p *Process) CPU() time.Duration {
	return p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime()
}

// Killed says whether a process that has ended did so by SIGKILL.
func (p *Process) Killed() bool {
	status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// Signal reaches the process and what it started, as long as it runs. SIGSTOP and SIGCONT play one that hangs.
func (p *Process) Signal(s syscall.Signal) {
	if p.Running() {
		_ = syscall.Kill(-p.PID, s)
	}
}

// Kill ends the process as a crash would and returns when it is gone. One that has ended stays as it is.
func (p *Process) Kill() error {
	if !p.Running() {
		return nil
	}
	p.Signal(syscall.SIGKILL)
	if !p.Ends(killWait) {
		return fmt.Errorf("pid %d is still there %v after SIGKILL", p.PID, killWait)
	}
	return nil
}

// FreeAddress returns a host:port of this machine on which nobody listens now.
func FreeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("finding a free port: %w", err)
	}
	return l.Addr().String(), l.Close()
}
