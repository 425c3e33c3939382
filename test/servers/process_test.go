package servers

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"databus/test/process"
	"databus/test/servers/fetch"
)

const parentVariable = "DATABUS_TEST_IS_PARENT"

// TestMain lets the test binary play a process that starts a server and is killed.
func TestMain(m *testing.M) {
	if file := os.Getenv(parentVariable); file != "" {
		beParent(file)
		return
	}
	Main(m)
}

func beParent(file string) {
	c, err := process.Start(exec.Command("sleep", "600"))
	if err == nil {
		err = os.WriteFile(file+".tmp", []byte(strconv.Itoa(c.PID)), 0o644)
	}
	if err == nil {
		err = os.Rename(file+".tmp", file)
	}
	if err != nil {
		panic(err)
	}
	time.Sleep(10 * time.Minute)
}

func TestServerDiesWithAKilledParent(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), parentVariable+"="+file)
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	within(t, 20*time.Second, "the parent to start its server", func() bool {
		b, err := os.ReadFile(file)
		if err != nil {
			return false
		}
		pid, err = strconv.Atoi(string(b))
		return err == nil
	})
	if err := syscall.Kill(pid, 0); err != nil {
		t.Fatalf("the server must live while its parent does: %v", err)
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait()
	within(t, 10*time.Second, "the server to die", func() bool { return gone(pid) })
}

// gone says whether the process ended; one that nobody has reaped yet has ended too.
func gone(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err != nil || strings.Contains(string(b), ") Z ")
}

func within(t *testing.T, d time.Duration, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(d); !f(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %v for %s", d, what)
		}
	}
}

// stub is a process of a shell script in place of a server.
func stub(t *testing.T, script string, ready func(context.Context) error) *Process {
	t.Helper()
	t.Setenv(fetch.CacheVariable, t.TempDir())
	cache, err := fetch.Open()
	if err != nil {
		t.Fatal(err)
	}
	p := &Process{Name: "stub", path: "/bin/sh", args: []string{"-c", script}, ready: ready}
	if _, err := p.prepare(cache, Options{}, 1); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func TestStartFailureNamesReasonAndLog(t *testing.T) {
	p := stub(t, "echo disk is full >&2; exit 3", func(context.Context) error { return errors.New("nobody listens") })
	err := p.start(t.Context())
	for _, want := range []string{"starting stub", "exit status 3", "disk is full", p.Log} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Fatalf("the error lacks %q: %v", want, err)
		}
	}
	if _, err := os.Stat(p.Log); err != nil {
		t.Fatalf("the log must stay: %v", err)
	}
	if _, err := os.Stat(p.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("the data must be removed, got %v", err)
	}
}

func TestStartGivesUpWithItsContext(t *testing.T) {
	p := stub(t, "echo waiting; exec sleep 600", func(context.Context) error { return errors.New("no answer yet") })
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	err := p.start(ctx)
	if err == nil || !strings.Contains(err.Error(), "no answer yet") || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	if p.Running() {
		t.Fatal("a server that did not answer must not stay")
	}
}

func TestStopKillRestart(t *testing.T) {
	p := stub(t, `trap 'echo in order >> end; exit 0' TERM; echo $$ > pid; while :; do sleep 0.05; done`, nil)
	p.ready = func(context.Context) error {
		b, _ := os.ReadFile(filepath.Join(p.Dir, "pid")) // of this start, not of the one before
		if strings.TrimSpace(string(b)) == strconv.Itoa(p.PID()) {
			return nil
		}
		return errors.New("not started")
	}
	if err := p.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	first := p.PID()
	if err := p.Kill9(); err != nil || p.Running() || !gone(first) {
		t.Fatalf("Kill9: %v, running %v", err, p.Running())
	}
	if _, err := os.Stat(filepath.Join(p.Dir, "end")); err == nil {
		t.Fatal("Kill9 must not end the process in order")
	}
	if err := p.Restart(t.Context()); err != nil || p.PID() == first {
		t.Fatalf("Restart: %v, pid %d", err, p.PID())
	}
	if err := p.Stop(); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(filepath.Join(p.Dir, "end")); string(b) != "in order\n" {
		t.Fatalf("Stop must let the process end in order, it wrote %q", b)
	}
}

func TestPortsAreDistinctAndHeld(t *testing.T) {
	t.Setenv(fetch.CacheVariable, t.TempDir())
	cache, err := fetch.Open()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[int]bool{}
	for range 50 {
		port, release, err := reservePort(cache)
		if err != nil {
			t.Fatal(err)
		}
		defer release()
		if seen[port] || port < firstPort || port > lastPort {
			t.Fatalf("port %d given twice or out of range", port)
		}
		seen[port] = true
		if _, err := cache.TryLock("port-" + strconv.Itoa(port)); !errors.Is(err, fetch.ErrLocked) {
			t.Fatalf("port %d is not held: %v", port, err)
		}
	}
}

func TestOldRunsArePrunedButNotLiveOnes(t *testing.T) {
	t.Setenv(fetch.CacheVariable, t.TempDir())
	cache, err := fetch.Open()
	if err != nil {
		t.Fatal(err)
	}
	live := cache.Path("run", "20000101T000000-1")
	for _, d := range []string{live, cache.Path("run", "20000101T000000-2")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	unlock, err := cache.TryLock("run-20000101T000000-1")
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	for range keptRuns + 1 {
		_, release, err := newRun(cache)
		if err != nil {
			t.Fatal(err)
		}
		release()
	}
	if _, err := os.Stat(live); err != nil {
		t.Fatalf("the run of a living owner was removed: %v", err)
	}
	if _, err := os.Stat(cache.Path("run", "20000101T000000-2")); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("an old run must go, got %v", err)
	}
}

func TestExecPassesAddressesAndExitCode(t *testing.T) {
	set := &Set{env: []string{KafkaVariable + "=127.0.0.1:1"}}
	code, err := Exec(t.Context(), set, []string{"sh", "-c", `test "$` + KafkaVariable + `" = 127.0.0.1:1 && exit 7`})
	if code != 7 || err != nil {
		t.Fatalf("got %d, %v; want 7", code, err)
	}
	if code, err := Exec(t.Context(), set, []string{"no-such-command-here"}); code != 127 || err == nil {
		t.Fatalf("got %d, %v; want 127 and an error", code, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if code, err := Exec(ctx, set, []string{"sleep", "600"}); code != 130 || err == nil {
		t.Fatalf("got %d, %v; want 130 and an error", code, err)
	}
}

func TestExternalNamesWhatIsMissing(t *testing.T) {
	t.Setenv(StackVariable, "external")
	for _, k := range kinds() {
		for _, v := range k.variables {
			t.Setenv(v, "")
		}
		_, err := k.external(t.Context())
		if err == nil || !strings.Contains(err.Error(), k.variables[0]) {
			t.Errorf("%s: the error must name the variable: %v", k.name, err)
		}
	}
	if _, err := StartSet(t.Context(), []string{"kafka", "postgres"}, Options{}); err == nil || !strings.Contains(err.Error(), `"postgres"`) {
		t.Errorf("an unknown server must be named: %v", err)
	}
}

func TestExternalServerThatDoesNotAnswerIsAnError(t *testing.T) {
	t.Setenv(fetch.CacheVariable, t.TempDir())
	cache, err := fetch.Open()
	if err != nil {
		t.Fatal(err)
	}
	port, release, err := reservePort(cache) // nobody listens there
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	address := "127.0.0.1:" + strconv.Itoa(port)
	for _, k := range kinds() {
		if strings.HasPrefix(k.name, "s") || k.name == "registry" {
			t.Setenv(k.variables[0], "http://"+address)
		} else {
			t.Setenv(k.variables[0], address)
		}
		for _, v := range k.variables[1:] {
			t.Setenv(v, "x")
		}
		if _, err := k.external(t.Context()); err == nil || !strings.Contains(err.Error(), address) {
			t.Errorf("%s: got %v", k.name, err)
		}
	}
}
