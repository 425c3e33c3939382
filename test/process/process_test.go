package process

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const soon = 30 * time.Second

func TestProgramOverItsRuns(t *testing.T) {
	dir := t.TempDir()
	p := &Program{Name: "stub a", Log: filepath.Join(dir, "log")}
	if p.Running() {
		t.Fatal("it was never started")
	}
	script := func(s string) *exec.Cmd { return exec.Command("/bin/sh", "-c", s) }
	begin := func(s, says string) {
		t.Helper()
		if err := p.Start(script(s)); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(soon); !strings.Contains(p.Output(), says); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("it says %q, not %q", p.Output(), says)
			}
		}
	}
	begin("echo one; while :; do sleep 0.02; done", "one")
	if err := p.Start(script("true")); err == nil || !strings.Contains(err.Error(), "stub a") {
		t.Fatalf("started twice: %v", err)
	}
	if u, err := p.Usage(); err != nil || u.Peak == 0 {
		t.Fatalf("%+v, %v", u, err)
	}
	p.Signal(syscall.SIGSTOP)
	for deadline := time.Now().Add(soon); !p.Frozen(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not freeze")
		}
	}
	if err := p.Kill9(); err != nil || p.Running() || !p.Killed() || p.ExitCode() != -1 {
		t.Fatalf("%v, running %v, killed %v", err, p.Running(), p.Killed())
	}

	begin("trap 'echo in order; exit 0' TERM; echo two; while :; do sleep 0.02; done", "two")
	if err := p.Stop(); err != nil || p.Killed() {
		t.Fatal(err)
	}
	if out := p.Output(); !strings.HasPrefix(out, "two\n") || !strings.HasSuffix(out, "in order\n") {
		t.Fatalf("the second run printed %q", out)
	}

	begin("echo disk is full; exit 3", "disk is full")
	if !p.Ends(soon) || p.ExitCode() != 3 {
		t.Fatalf("exit code %d", p.ExitCode())
	}
	for _, err := range []error{p.Alive(), p.Kill9(), p.Stop()} {
		if err == nil || !strings.Contains(err.Error(), "stub a") || !strings.Contains(err.Error(), "disk is full") || !strings.Contains(err.Error(), "exit status 3") {
			t.Errorf("got %v", err)
		}
	}
	if all, err := os.ReadFile(p.Log); err != nil || !strings.HasPrefix(string(all), "one\ntwo\n") {
		t.Errorf("the log holds %q, %v", all, err)
	}
}

// What a process started dies with it.
func TestKillReachesTheGroup(t *testing.T) {
	p := &Program{Name: "parent", Log: filepath.Join(t.TempDir(), "log")}
	if err := p.Start(exec.Command("/bin/sh", "-c", "sleep 600 & echo $!; wait")); err != nil {
		t.Fatal(err)
	}
	var child int
	for deadline := time.Now().Add(soon); child == 0; time.Sleep(5 * time.Millisecond) {
		if child, _ = strconv.Atoi(strings.TrimSpace(p.Output())); time.Now().After(deadline) {
			t.Fatal("it does not start")
		}
	}
	if err := p.Kill9(); err != nil {
		t.Fatal(err)
	}
	// One that nobody has reaped yet has ended too.
	for deadline := time.Now().Add(soon); ; time.Sleep(5 * time.Millisecond) {
		if fields, err := stat(child); err != nil || fields[0] == "Z" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("its child lives on")
		}
	}
}

func TestBinariesAreBuiltOnce(t *testing.T) {
	var b Binaries
	defer b.Remove()
	if _, err := b.Path("databus/test/process/no-such-command"); err == nil || !strings.Contains(err.Error(), "no-such-command") {
		t.Fatalf("got %v", err)
	}
	built, err := b.Path("databus/test/servers/cmd/servers")
	if err != nil {
		t.Fatal(err)
	}
	first, err := os.Stat(built)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Build("databus/test/servers/cmd/servers"); err != nil {
		t.Fatal(err)
	}
	if again, err := os.Stat(built); err != nil || !again.ModTime().Equal(first.ModTime()) {
		t.Errorf("it was built again: %v", err)
	}
	b.Remove()
	if _, err := os.Stat(built); !os.IsNotExist(err) {
		t.Errorf("the binary is still there: %v", err)
	}
}
