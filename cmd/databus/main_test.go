package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/embedded"
)

// TestMain lets the test binary be the program itself, for tests that need it as a process.
func TestMain(m *testing.M) {
	if os.Getenv("DATABUS_TEST_AS_PROGRAM") != "" {
		main()
		return
	}
	for _, name := range []string{"DATABUS_BROKERS", "DATABUS_REGISTRY", "DATABUS_DIR"} {
		os.Unsetenv(name)
	}
	os.Exit(m.Run())
}

// A stack is an embedded broker and registry, found through dev.json as commands find `databus dev`.
type stack struct {
	*embedded.Stack
	dir    string
	sortBy []string // of the archiver
}

// start returns a stack without topics and schemas.
func start(t *testing.T) *stack {
	t.Helper()
	s := &stack{Stack: embedded.ForTest(t), dir: t.TempDir()}
	state := devState{Brokers: s.Broker.Seeds(), Registry: s.Registry.URL()}
	if err := state.write(s.dir); err != nil {
		t.Fatal(err)
	}
	return s
}

// ready returns a stack with the given topics and all schemas.
func readyStack(t *testing.T, topics ...string) *stack {
	t.Helper()
	s := start(t)
	s.ok(t, append([]string{"topics", "apply"}, topics...)...)
	s.ok(t, "schemas", "register")
	return s
}

// A result is what a run of the program left.
type result struct {
	code     int
	out, err string
}

// in runs the program on the stack with standard input.
func (s *stack) in(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	return invoke(ctx, strings.NewReader(stdin), append([]string{"--dir", s.dir}, args...)...)
}

func (s *stack) run(t *testing.T, args ...string) result { t.Helper(); return s.in(t, "", args...) }

// ok runs the program and wants exit code 0; it returns what was printed.
func (s *stack) ok(t *testing.T, args ...string) string {
	t.Helper()
	r := s.run(t, args...)
	if r.code != 0 {
		t.Fatalf("databus %s: exit code %d: %s", strings.Join(args, " "), r.code, r.err)
	}
	return r.out
}

func invoke(ctx context.Context, in io.Reader, args ...string) result {
	var out, errOut bytes.Buffer
	code := run(ctx, args, in, &out, &errOut)
	return result{code, out.String(), errOut.String()}
}

// fails wants an exit code and every one of the texts in the error, which is one line.
func (r result) fails(t *testing.T, code int, texts ...string) {
	t.Helper()
	if r.code != code {
		t.Errorf("exit code %d, want %d; stderr: %s", r.code, code, r.err)
	}
	if strings.Count(r.err, "\n") != 1 {
		t.Errorf("the error is not one line: %q", r.err)
	}
	for _, text := range texts {
		if !strings.Contains(r.err, text) {
			t.Errorf("the error does not hold %q: %s", text, r.err)
		}
	}
}

func (s *stack) client(t *testing.T, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append(target{brokers: s.Broker.Seeds()}.options(), opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

// create makes a topic that is not as the catalogue says.
func (s *stack) create(t *testing.T, topic string, partitions int32) {
	t.Helper()
	if _, err := kadm.NewClient(s.client(t)).CreateTopic(t.Context(), partitions, 1, nil, topic); err != nil {
		t.Fatal(err)
	}
}

// consume runs `databus consume` and parses its lines.
func (s *stack) consume(t *testing.T, args ...string) []line {
	t.Helper()
	return parse(t, s.ok(t, append([]string{"consume"}, args...)...))
}

func parse(t *testing.T, out string) []line {
	t.Helper()
	var lines []line
	for _, text := range strings.Split(strings.TrimSpace(out), "\n") {
		if text == "" {
			continue
		}
		var l line
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			t.Fatalf("line %q: %v", text, err)
		}
		lines = append(lines, l)
	}
	return lines
}

func TestWrongCommandLine(t *testing.T) {
	for want, args := range map[string][]string{
		"see `databus produce --help`":              {"produce"},
		"see `databus --help`":                      {"prduce"},
		"see `databus consume --help`":              {"consume", "usage.events", "--format", "xml"},
		"see `databus topics apply --help`":         {"topics", "apply", "--replication", "many"},
		"see `databus completion --help`":           {"completion", "tcsh"},
		"unknown flag --nope; see `databus version": {"version", "--nope"},
	} {
		invoke(t.Context(), strings.NewReader(""), args...).fails(t, 2, want)
	}
	if r := invoke(t.Context(), strings.NewReader("")); r.code != 0 || !strings.Contains(r.out, "Commands:") {
		t.Errorf("without arguments: %+v", r)
	}
}

func TestUnreachable(t *testing.T) {
	args := []string{"--brokers", "127.0.0.1:1", "--registry", "http://127.0.0.1:1"}
	nobody := func(more ...string) result {
		return invoke(t.Context(), strings.NewReader(`{"job_id":"j"}`), append(args, more...)...)
	}
	nobody("topics", "check").fails(t, 1, "no Kafka broker answers at 127.0.0.1:1, named by --brokers", "databus dev")
	nobody("schemas", "register").fails(t, 1, "no schema registry answers at http://127.0.0.1:1", "--registry")

	s := readyStack(t, "rebuild.requests")
	s.in(t, `{"job_id":"j"}`, "--registry", "http://127.0.0.1:1", "produce", "rebuild.requests").fails(t, 1, "no schema registry answers")
	s.ok(t, "produce", "rebuild.requests", `{"job_id":"j"}`)
	s.run(t, "--registry", "http://127.0.0.1:1", "consume", "rebuild.requests").fails(t, 1, "no schema registry answers")
}

func TestAddresses(t *testing.T) {
	dir := t.TempDir()
	g := Globals{Dir: dir}
	is := func(brokers, registry string) {
		t.Helper()
		got, err := g.target()
		if err != nil || strings.Join(got.brokers, ",") != brokers || got.registry != registry {
			t.Errorf("%+v, %v; want %s and %s", got, err, brokers, registry)
		}
	}
	is(defaultBroker, defaultRegistry)
	if err := (devState{Brokers: []string{"127.0.0.1:5", "127.0.0.1:6"}, Registry: "http://127.0.0.1:7"}).write(dir); err != nil {
		t.Fatal(err)
	}
	is("127.0.0.1:5,127.0.0.1:6", "http://127.0.0.1:7")
	g.Brokers = []string{"a:1"}
	is("a:1", "http://127.0.0.1:7")
	g.Registry = "http://b"
	is("a:1", "http://b")
	g = Globals{Dir: dir}
	if err := os.WriteFile(dir+"/"+devFile, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := g.target(); err == nil || !strings.Contains(err.Error(), "start `databus dev` again") {
		t.Errorf("a damaged dev.json: %v", err)
	}
}
