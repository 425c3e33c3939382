package servers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"databus/test/process"
	"databus/test/servers/fetch"
)

const (
	stopGrace   = 60 * time.Second       // from SIGTERM to SIGKILL
	readyPoll   = 100 * time.Millisecond // between two readiness requests
	readyTry    = 5 * time.Second        // limit of one readiness request
	readyWithin = 6 * time.Minute        // limit of a start; on 2 cores with 15 times too much to do, Kafka took 75 s instead of 7
	tailLines   = 25
)

// Options are the settings of a started server that a test may want to choose.
type Options struct {
	// Dir keeps the server's data and log; a server started on the Dir of a stopped one continues with its data. Empty
	// means a new directory, whose data (not the log) Close removes.
	Dir string
	// Heap is the JVM's largest heap, as in -Xmx ("512m"). Empty means the server's modest default.
	Heap string
	// Config adds to or overrides the server's own settings: server.properties of Kafka, top-level scalars of
	// cassandra.yaml, system properties of Apicurio, global flags of versitygw without the dashes.
	Config map[string]string
}

// Process is one server process. It survives Stop and Kill9 as a value: Restart runs it again with the same data and ports.
type Process struct {
	Name string // "kafka", "kafka-2", "cassandra": for messages
	Addr string // host:port of the protocol the server is for
	Dir  string // configuration and data
	Log  string // file with everything the server printed, over all starts

	path    string
	args    []string
	env     []string
	ready   func(context.Context) error
	cleanup []func()

	mu  sync.Mutex
	run *process.Process // the latest; nil before the first
}

// launch starts the process without waiting for it to answer.
func (p *Process) launch() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.run.Running() {
		return fmt.Errorf("starting %s: it runs already, pid %d", p.Name, p.run.PID)
	}
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("opening the log of %s: %w", p.Name, err)
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(p.path, p.args...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = p.Dir, p.env, log, log
	run, err := process.Start(cmd)
	if err != nil {
		return fmt.Errorf("starting %s: %w", p.Name, err)
	}
	p.run = run
	return nil
}

// await waits until the process answers its protocol; it gives up when the process ends, after readyWithin or with ctx.
func (p *Process) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	p.mu.Lock()
	run := p.run
	p.mu.Unlock()
	for {
		try, end := context.WithTimeout(ctx, readyTry)
		err := p.ready(try)
		end()
		if err == nil && run.Running() {
			return nil
		}
		select {
		case <-run.Done():
			return p.failure("starting", fmt.Errorf("it ended with %s before it answered", exitText(run.Err())))
		case <-ctx.Done():
			return p.failure("starting", fmt.Errorf("no answer at %s in time (%w); last try: %v", p.Addr, ctx.Err(), err))
		case <-time.After(readyPoll):
		}
	}
}

func exitText(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}

// failure is what went wrong while doing something with the process, with the end of its log.
func (p *Process) failure(doing string, reason error) error {
	out, _ := os.ReadFile(p.Log)
	end := fetch.Tail(out, tailLines)
	if len(strings.TrimSpace(end)) == 0 {
		end = "    (empty)"
	}
	return fmt.Errorf("%s %s: %w\nthe end of its log, %s:\n%s", doing, p.Name, reason, p.Log, end)
}

// start launches and waits; on failure nothing is left running and no port reserved.
func (p *Process) start(ctx context.Context) error {
	err := p.launch()
	if err == nil {
		err = p.await(ctx)
	}
	if err != nil {
		p.Close()
	}
	return err
}

// PID returns the process id of the latest start.
func (p *Process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.run == nil {
		return 0
	}
	return p.run.PID
}

// Running says whether the process is alive.
func (p *Process) Running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.run.Running()
}

// Signal sends sig, for example SIGSTOP and SIGCONT to play a server that hangs.
func (p *Process) Signal(sig syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.run.Signal(sig)
}

// Kill9 kills the process as a crash would and returns when it is gone. Its data stays.
func (p *Process) Kill9() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.kill9()
}

func (p *Process) kill9() error {
	if err := p.run.Kill(); err != nil {
		return fmt.Errorf("killing %s: %w", p.Name, err)
	}
	return nil
}

// Stop ends the process in good order and returns when it is gone; past a minute it is killed, which is an error. Its
// data stays.
func (p *Process) Stop() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.run.Running() {
		return nil
	}
	p.run.Signal(syscall.SIGTERM)
	if p.run.Ends(stopGrace) {
		return nil
	}
	return errors.Join(fmt.Errorf("stopping %s: it did not end within %v and was killed; its log: %s", p.Name, stopGrace, p.Log), p.kill9())
}

// Restart stops the process if it runs, starts it with the same data and ports and waits until it answers.
func (p *Process) Restart(ctx context.Context) error {
	if err := p.Stop(); err != nil {
		return err
	}
	if err := p.launch(); err != nil {
		return err
	}
	return p.await(ctx)
}

// Close kills the process, frees its ports and removes its data if Options.Dir was empty. The log stays.
func (p *Process) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = p.kill9()
	for _, f := range p.cleanup {
		f()
	}
	p.cleanup = nil
}

// prepare gives p its directory, log and ports; addr is the first port.
func (p *Process) prepare(cache fetch.Dir, o Options, nPorts int) (ports []int, err error) {
	base := o.Dir
	if base == "" {
		var release func()
		base, release, err = newRun(cache)
		if err != nil {
			return nil, err
		}
		p.cleanup = append(p.cleanup, func() { _ = os.RemoveAll(p.Dir); release() })
	}
	base, err = filepath.Abs(base)
	if err != nil {
		return nil, fmt.Errorf("resolving the directory of %s: %w", p.Name, err)
	}
	p.Dir, p.Log = filepath.Join(base, p.Name), filepath.Join(base, p.Name+".log")
	if err := os.MkdirAll(p.Dir, 0o755); err != nil {
		p.Close()
		return nil, fmt.Errorf("creating the directory of %s: %w", p.Name, err)
	}
	for range nPorts {
		port, release, err := reservePort(cache)
		if err != nil {
			p.Close()
			return nil, err
		}
		ports = append(ports, port)
		p.cleanup = append(p.cleanup, release)
	}
	p.Addr = fmt.Sprintf("127.0.0.1:%d", ports[0])
	return ports, nil
}
