package process

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

const tailLines = 25

// A Program is run again and again. Set Name and Log, then Start it; the embedded Process is its last run.
type Program struct {
	Name string // for messages: "limiter a"
	Log  string // file to which all runs append
	*Process
	mark int64 // where the log of the last run begins
}

// Start runs cmd as the program's next run, its output appended to the log.
func (p *Program) Start(cmd *exec.Cmd) error {
	if p.Running() {
		return fmt.Errorf("starting %s: it runs already, pid %d", p.Name, p.PID)
	}
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("opening the log of %s: %w", p.Name, err)
	}
	defer func() { _ = log.Close() }()
	info, err := log.Stat()
	if err != nil {
		return fmt.Errorf("opening the log of %s: %w", p.Name, err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	run, err := Start(cmd)
	if err != nil {
		return fmt.Errorf("starting %s: %w", p.Name, err)
	}
	p.Process, p.mark = run, info.Size()
	return nil
}

// Kill9 kills the run as a crash would, and returns when it is gone; one that has ended by itself, before or meanwhile, is an
// error.
func (p *Program) Kill9() error {
	if err := p.Kill(); err != nil {
		return fmt.Errorf("killing %s: %w", p.Name, err)
	}
	if !p.Killed() {
		return p.Ended()
	}
	return nil
}

// jvmTerminated is how a JVM exits behind a SIGTERM that it obeyed: 128 and the signal's number.
const jvmTerminated = 128 + int(syscall.SIGTERM)

// Stop ends the run in good order; any other end is an error.
func (p *Program) Stop() error {
	p.Signal(syscall.SIGTERM)
	if !p.Ends(stopGrace) {
		return errors.Join(fmt.Errorf("stopping %s: it did not end within %v and was killed\n%s", p.Name, stopGrace, p.Tail()), p.Kill())
	}
	if p.Err() != nil && p.ExitCode() != jvmTerminated {
		return fmt.Errorf("stopping %s: %w\n%s", p.Name, p.Err(), p.Tail())
	}
	return nil
}

// Alive is an error where the run has ended.
func (p *Program) Alive() error {
	if p.Running() {
		return nil
	}
	return p.Ended()
}

// Ended describes a run that ended although nobody asked it to.
func (p *Program) Ended() error {
	return fmt.Errorf("%s ended by itself (%v):\n%s", p.Name, p.Err(), p.Tail())
}

// Output is what the last run has printed.
func (p *Program) Output() string {
	b, err := os.ReadFile(p.Log)
	if err != nil || int64(len(b)) < p.mark {
		return ""
	}
	return string(b[p.mark:])
}

// Tail is the end of Output.
func (p *Program) Tail() string {
	lines := strings.Split(strings.TrimSpace(p.Output()), "\n")
	return "    " + strings.Join(lines[max(0, len(lines)-tailLines):], "\n    ")
}
