// Package stack runs the embedded broker and registry in a process of their own, for tests that kill everything around them.
//
// Promise: the broker keeps what it was given until the test is over, whatever happens to the processes that use it. It ends
// with the test, and with the test's process.
//
// Concurrency: any number of tests may start one each.
//
// Failure: what keeps it from starting fails the test.
package stack

import (
	"bufio"
	"errors"
	"os/exec"
	"testing"
	"time"

	"databus/test/process"
)

const endsWithin = 30 * time.Second

// Start builds the program and runs it until the test is over.
func Start(t testing.TB, binaries *process.Binaries) (broker, registry string) {
	t.Helper()
	path, err := binaries.Path("databus/test/stack/cmd/stack")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path)
	stdin, err1 := cmd.StdinPipe()
	stdout, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	p, err := process.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close() // which ends it
		if !p.Ends(endsWithin) {
			t.Errorf("the embedded broker did not end within %v: %v", endsWithin, p.Kill())
		}
	})
	lines := bufio.NewScanner(stdout)
	var said []string
	for len(said) < 2 && lines.Scan() {
		said = append(said, lines.Text())
	}
	if len(said) < 2 {
		t.Fatalf("the embedded broker does not start; it says %q", said)
	}
	return said[0], said[1]
}
