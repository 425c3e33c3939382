package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A process is a running program. It is dead when the test is over, and when the test's process is dead.
type process struct {
	name     string
	pid      int
	out, err output
	done     chan struct{} // closed when it has ended
	code     int           // then: its exit code, -1 after a signal
	cpu      time.Duration // then: what it used of all cores
}

// output collects what a process prints, for a test that reads meanwhile.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// start runs a program with additional environment variables, in a process group of its own.
func start(t testing.TB, env []string, program string, args ...string) *process {
	t.Helper()
	p := &process{name: program + " " + strings.Join(args, " "), done: make(chan struct{})}
	cmd := exec.Command(program, args...)
	cmd.Dir = t.TempDir() // nothing is written beside the tests
	cmd.Stdout, cmd.Stderr = &p.out, &p.err
	for _, v := range os.Environ() { // the user's own settings must not reach it
		if !strings.HasPrefix(v, "DATABUS_") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(cmd.Env, env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	go func() {
		// The kernel ties the child's life to the thread that made it, so the thread is kept.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		p.pid = cmd.Process.Pid
		started <- nil
		_ = cmd.Wait() // the exit code says it
		p.code = cmd.ProcessState.ExitCode()
		p.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
		close(p.done)
	}()
	if err := <-started; err != nil {
		t.Fatalf("starting %s: %v", p.name, err)
	}
	t.Cleanup(p.kill)
	return p
}

// signal reaches the process and what it started.
func (p *process) signal(s syscall.Signal) {
	select {
	case <-p.done:
	default:
		_ = syscall.Kill(-p.pid, s)
	}
}

// kill is kill -9; it returns when the process is gone.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.done
}

// wait returns the exit code; a process that runs for longer than the limit fails the test.
func (p *process) wait(t testing.TB, limit time.Duration) int {
	t.Helper()
	select {
	case <-p.done:
		return p.code
	case <-time.After(limit):
		p.kill()
		t.Fatalf("%s did not end within %v\n%s\n%s", p.name, limit, &p.out, &p.err)
		return -1
	}
}

// run runs a program to its end.
func run(t testing.TB, limit time.Duration, program string, args ...string) *process {
	t.Helper()
	p := start(t, nil, program, args...)
	p.wait(t, limit)
	return p
}

// eventually waits for a condition; what it returns says what is missing, "" that nothing is.
func eventually(t testing.TB, limit time.Duration, what string, missing func() string) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		m := missing()
		if m == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v: %s", what, limit, m)
		}
		time.Sleep(100 * time.Millisecond)
	}
}
