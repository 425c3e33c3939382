package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"databus/test/process"
)

// A command is a running program. It is dead when the test is over, and when the test's process is dead.
type command struct {
	*process.Process
	name     string
	out, err output
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
func start(t testing.TB, env []string, program string, args ...string) *command {
	t.Helper()
	p := &command{name: program + " " + strings.Join(args, " ")}
	cmd := exec.Command(program, args...)
	cmd.Dir = t.TempDir() // nothing is written beside the tests
	cmd.Stdout, cmd.Stderr = &p.out, &p.err
	for _, v := range os.Environ() { // the user's own settings must not reach it
		if !strings.HasPrefix(v, "DATABUS_") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(cmd.Env, env...)
	var err error
	if p.Process, err = process.Start(cmd); err != nil {
		t.Fatalf("starting %s: %v", p.name, err)
	}
	t.Cleanup(func() { p.kill(t) })
	return p
}

// kill is kill -9; it returns when the process is gone.
func (p *command) kill(t testing.TB) {
	t.Helper()
	if err := p.Kill(); err != nil {
		t.Fatalf("killing %s: %v", p.name, err)
	}
}

// wait returns the exit code; a process that runs for longer than the limit fails the test.
func (p *command) wait(t testing.TB, limit time.Duration) int {
	t.Helper()
	if !p.Ends(limit) {
		p.kill(t)
		t.Fatalf("%s did not end within %v\n%s\n%s", p.name, limit, &p.out, &p.err)
	}
	return p.ExitCode()
}

// run runs a program to its end.
func run(t testing.TB, limit time.Duration, program string, args ...string) *command {
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
