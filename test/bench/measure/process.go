// Package measure starts the processes of a benchmark and says what they used.
//
// Promise: CPU time is what the kernel counted for the process and the children it has reaped (utime, stime, cutime and
// cstime of /proc/PID/stat, in steps of 10 ms); memory is its highest resident set so far (VmHWM). Linux only.
//
// Concurrency: one goroutine per Process.
//
// Failure: a process that ends by itself is an error of the next call, with the end of what it printed.
package measure

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"databus/test/servers/fetch"
)

// Process is a started command.
type Process struct {
	name string
	log  string
	pid  int
	done chan struct{}
	err  error // set before done is closed
	used Usage // the last seen
}

// Usage is what a process has used so far.
type Usage struct {
	CPU time.Duration
	// Peak is the largest resident set, in bytes.
	Peak int64
}

// Start runs a command whose output is appended to the file log. It dies with this process.
func Start(name, log string, env []string, command string, args ...string) (*Process, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening the log of %s: %w", name, err)
	}
	defer func() { _ = f.Close() }()
	cmd := exec.Command(command, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), env...), f, f
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p := &Process{name: name, log: log, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		// The kernel ties Pdeathsig to the thread that forks: it is kept until the child ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		p.pid = cmd.Process.Pid
		started <- nil
		p.err = cmd.Wait()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	return p, nil
}

// Alive is an error where the process has ended.
func (p *Process) Alive() error {
	select {
	case <-p.done:
		out, _ := os.ReadFile(p.log)
		return fmt.Errorf("%s ended by itself (%v); the end of its log:\n%s", p.name, p.err, fetch.Tail(out, 25))
	default:
		return nil
	}
}

// Usage reads what the process has used.
func (p *Process) Usage() (Usage, error) {
	u, err := Read(p.pid)
	if err != nil {
		if dead := p.Alive(); dead != nil {
			return u, dead
		}
		return u, err
	}
	p.used = u
	return u, nil
}

// Kill ends the process as a crash would.
func (p *Process) Kill() {
	_ = syscall.Kill(-p.pid, syscall.SIGKILL)
	<-p.done
}

// Stop asks the process to end and waits.
func (p *Process) Stop() error {
	if err := p.Alive(); err != nil {
		return err
	}
	_ = syscall.Kill(p.pid, syscall.SIGTERM)
	select {
	case <-p.done:
		return nil
	case <-time.After(90 * time.Second):
		p.Kill()
		return fmt.Errorf("stopping %s: it did not end within 90 s and was killed", p.name)
	}
}

// Wait waits for the process to end by itself and returns what it used in all.
func Wait(name, command string, env []string, args ...string) (stdout string, cpu time.Duration, err error) {
	cmd := exec.Command(command, args...)
	var out, errs bytes.Buffer
	cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), env...), &out, &errs
	if err := cmd.Run(); err != nil {
		return "", 0, fmt.Errorf("running %s: %w\n%s", name, err, fetch.Tail(errs.Bytes(), 25))
	}
	return out.String(), cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), nil
}

// Read reads what a process of any owner has used.
func Read(pid int) (Usage, error) {
	var u Usage
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return u, fmt.Errorf("reading CPU time: %w", err)
	}
	// The second field is the command in brackets and may hold anything; state is the third.
	_, rest, ok := strings.Cut(string(stat[max(0, bytes.LastIndexByte(stat, ')')):]), " ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 15 {
		return u, fmt.Errorf("reading CPU time of %d: the kernel's line has %d fields", pid, len(fields))
	}
	const ticksPerSecond = 100 // USER_HZ, fixed by the kernel's interface
	for _, f := range fields[11:15] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return u, fmt.Errorf("reading CPU time of %d: %w", pid, err)
		}
		u.CPU += time.Duration(n) * time.Second / ticksPerSecond
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return u, fmt.Errorf("reading memory: %w", err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				return u, fmt.Errorf("reading memory of %d: %w", pid, err)
			}
			u.Peak = kb << 10
		}
	}
	return u, nil
}
