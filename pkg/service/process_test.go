package service

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

func runner(f func(ctx context.Context) error) Runner { return RunnerFunc(f) }

func TestSupervise(t *testing.T) {
	boom := errors.New("boom")
	polite := Task{"polite", runner(func(ctx context.Context) error { <-ctx.Done(); return nil })}
	slow := func(d time.Duration) Task {
		return Task{"slow", runner(func(ctx context.Context) error { <-ctx.Done(); time.Sleep(d); return nil })}
	}
	release := make(chan struct{})
	defer close(release)
	deaf := Task{"deaf", runner(func(context.Context) error { <-release; return nil })}
	failing := Task{"failing", runner(func(context.Context) error { return boom })}
	for _, c := range []struct {
		name     string
		tasks    []Task
		cancel   bool
		force    bool
		drain    time.Duration
		want     []string
		wantNone bool
	}{
		{name: "an orderly end", tasks: []Task{polite, slow(20 * time.Millisecond)}, cancel: true, drain: time.Minute, wantNone: true},
		{name: "an end by context error", tasks: []Task{{"c", runner(func(ctx context.Context) error { <-ctx.Done(); return fmt.Errorf("polling: %w", ctx.Err()) })}}, cancel: true, drain: time.Minute, wantNone: true},
		{name: "one fails, the others drain", tasks: []Task{polite, failing, slow(20 * time.Millisecond)}, drain: time.Minute, want: []string{"failing: boom"}},
		{name: "one ends unasked", tasks: []Task{polite, {"early", runner(func(context.Context) error { return nil })}}, drain: time.Minute, want: []string{"early: ended although nobody asked"}},
		{name: "a failure while draining", tasks: []Task{{"late", runner(func(ctx context.Context) error { <-ctx.Done(); return boom })}}, cancel: true, drain: time.Minute, want: []string{"late: boom"}},
		{name: "drain timeout", tasks: []Task{polite, deaf}, cancel: true, drain: 30 * time.Millisecond, want: []string{"drain timeout of 30ms", "still running: deaf"}},
		{name: "second signal", tasks: []Task{deaf}, cancel: true, force: true, drain: time.Minute, want: []string{"second signal", "deaf"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if c.cancel {
				time.AfterFunc(10*time.Millisecond, cancel)
			}
			force := make(chan struct{})
			if c.force {
				time.AfterFunc(30*time.Millisecond, func() { close(force) })
			}
			drains := 0
			err := supervise(ctx, force, c.drain, func() { drains++ }, c.tasks)
			if c.wantNone != (err == nil) {
				t.Fatal(err)
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("missing %q in %v", w, err)
				}
			}
			if drains > 1 {
				t.Errorf("draining was announced %d times", drains)
			}
		})
	}
}

// TestLife follows one process: it waits for its registry, gets ready, drains on the first signal.
func TestLife(t *testing.T) {
	s := startStack(t)
	s.applyTopics(t)
	s.down.set(true)
	addr := freeAddr(t)
	def := probe()
	var env *Env
	finish := make(chan struct{})
	def.New = func(_ context.Context, e *Env, _ probeConfig) (Runner, error) {
		env = e
		e.Health.Register("loop").Set(true, "")
		return runner(func(ctx context.Context) error { <-ctx.Done(); <-finish; return nil }), nil
	}
	signals := make(chan os.Signal, 2)
	var out, logs lockedBuffer
	code := make(chan int)
	go func() { code <- run(def.Service(), s.args("--set", "http.listen="+addr), nil, signals, &out, &logs) }()

	eventually := func(what string, f func() (bool, string)) {
		t.Helper()
		var last string
		for range 400 {
			var ok bool
			if ok, last = f(); ok {
				return
			}
			time.Sleep(25 * time.Millisecond)
		}
		t.Fatalf("%s: %s\n%s", what, last, logs.String())
	}
	readyz := func() (int, string) {
		resp, err := http.Get("http://" + addr + "/readyz")
		if err != nil {
			return 0, err.Error()
		}
		defer resp.Body.Close()
		var b bytes.Buffer
		_, _ = b.ReadFrom(resp.Body)
		return resp.StatusCode, b.String()
	}
	probing := func() (int, string) {
		var out, errs bytes.Buffer
		code := run(def.Service(), []string{"--probe"}, []string{"DATABUS_HTTP__LISTEN=:" + addr[strings.LastIndexByte(addr, ':')+1:]}, nil, &out, &errs)
		return code, out.String() + errs.String()
	}
	if code, text := probing(); code == 0 {
		t.Errorf("a probe before the start: %s", text)
	}
	eventually("waiting for the registry", func() (bool, string) {
		code, body := readyz()
		return code == 503 && strings.Contains(body, "is registry.url the base"), body
	})
	if code, text := probing(); code != 1 || !strings.Contains(text, "not ready: 503") {
		t.Errorf("a probe of a waiting process: %d, %s", code, text)
	}
	s.down.set(false)
	eventually("ready", func() (bool, string) { code, body := readyz(); return code == 200, body })
	if code, text := probing(); code != 0 || !strings.Contains(text, `"ready":true`) {
		t.Errorf("a probe of a ready process: %d, %s", code, text)
	}
	if env.TransactionalID("loop") != "databus.usage-aggregator.loop.one" || env.StateDir != "state/usage-aggregator/one" {
		t.Errorf("%s, %s", env.TransactionalID("loop"), env.StateDir)
	}
	signals <- syscall.SIGTERM
	eventually("draining", func() (bool, string) {
		code, body := readyz()
		return code == 503 && strings.Contains(body, "draining"), body
	})
	close(finish)
	if c := <-code; c != 0 {
		t.Errorf("exit code %d\n%s", c, logs.String())
	}
	for line := range strings.Lines(logs.String()) {
		if !json.Valid([]byte(line)) {
			t.Errorf("not JSON: %s", line)
		}
	}
}

func TestEndings(t *testing.T) {
	s := startStack(t)
	signals := func(n int) chan os.Signal {
		c := make(chan os.Signal, 2)
		for range n {
			c <- syscall.SIGTERM
		}
		return c
	}
	release := make(chan struct{})
	defer close(release)
	end := func(name string, def Definition[probeConfig], signals chan os.Signal, args []string, wantCode int, wants ...string) {
		t.Helper()
		var out, logs lockedBuffer
		code := run(def.Service(), append(args, "--set", "http.listen="), nil, signals, &out, &logs)
		if code != wantCode {
			t.Errorf("%s: exit code %d\n%s", name, code, logs.String())
		}
		for _, w := range wants {
			if !strings.Contains(logs.String(), w) {
				t.Errorf("%s: missing %q in\n%s", name, w, logs.String())
			}
		}
	}
	end("missing topics", probe(), nil, s.args(), 1, "topic usage.events is missing", "databus topics apply")
	s.applyTopics(t)
	failing := probe()
	failing.New = func(context.Context, *Env, probeConfig) (Runner, error) {
		return runner(func(context.Context) error { return hinted{} }), nil
	}
	end("a runner fails", failing, nil, s.args(), 1, "state is ahead", `"hint":"delete it"`)
	broken := probe()
	broken.New = func(context.Context, *Env, probeConfig) (Runner, error) { return nil, errors.New("no disk") }
	end("cannot start", broken, nil, s.args(), 1, "starting usage-aggregator: no disk")
	deaf := probe()
	deaf.New = func(context.Context, *Env, probeConfig) (Runner, error) {
		return runner(func(context.Context) error { <-release; return nil }), nil
	}
	twice := make(chan os.Signal)
	go func() {
		time.Sleep(500 * time.Millisecond) // Prepare is over
		twice <- syscall.SIGTERM
		twice <- syscall.SIGINT
	}()
	end("second signal", deaf, twice, s.args(), 1, "second signal", "still running: usage-aggregator")
	end("asked to stop while waiting for brokers", probe(), signals(1),
		[]string{"--set", "kafka.brokers=" + freeAddr(t), "--set", "instance.id=one"}, 0)
}

type hinted struct{}

func (hinted) Error() string { return "state is ahead" }
func (hinted) Hint() string  { return "delete it" }
