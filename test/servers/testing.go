package servers

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
)

// own holds what this test process started or found. It is the one state of the package: TestMain has no other way to
// hand servers to tests.
var own = struct {
	mu      sync.Mutex
	results map[string]*result
}{results: map[string]*result{}}

type result struct {
	once    sync.Once
	process *Process
	values  []string
	err     error
}

// Main runs a package's tests, stops what they started, calls what else is to be done at the end, and exits. Use it as
// the whole of TestMain.
func Main(m *testing.M, after ...func()) {
	code := m.Run()
	stopOwn()
	for _, f := range after {
		f()
	}
	os.Exit(code)
}

func stopOwn() {
	own.mu.Lock()
	defer own.mu.Unlock()
	for name, r := range own.results {
		if r.process == nil {
			continue
		}
		if !r.process.Running() {
			fmt.Fprintln(os.Stderr, r.process.failure("running", fmt.Errorf("%s ended by itself", name)))
		}
		r.process.Close()
	}
}

// Kafka returns the bootstrap servers (host:port, comma-separated) of a running Kafka.
func Kafka(t testing.TB) string { t.Helper(); return obtain(t, "kafka")[0] }

// Registry returns the base URL of a running registry's Confluent API.
func Registry(t testing.TB) string { t.Helper(); return obtain(t, "registry")[0] }

// Cassandra returns host:port (comma-separated if several) of a running Cassandra.
func Cassandra(t testing.TB) string { t.Helper(); return obtain(t, "cassandra")[0] }

// S3 returns how to reach a running S3 server.
func S3(t testing.TB) S3Config { t.Helper(); return s3Config(obtain(t, "s3")) }

// obtain finds or starts the server once per process. Servers are shared by many tests: take names of topics, keyspaces
// and buckets that nobody else takes.
func obtain(t testing.TB, name string) []string {
	t.Helper()
	own.mu.Lock()
	r := own.results[name]
	if r == nil {
		r = &result{}
		own.results[name] = r
	}
	own.mu.Unlock()
	r.once.Do(func() {
		for _, k := range kinds() {
			if k.name == name {
				r.process, r.values, r.err = k.obtain(context.Background()) // outlives the test that asks first
			}
		}
	})
	if r.err != nil {
		t.Fatalf("this test needs %s: %v", name, r.err)
	}
	return r.values
}

func (k kind) obtain(ctx context.Context) (*Process, []string, error) {
	if _, complete := k.fromEnvironment(); complete || External() {
		values, err := k.external(ctx)
		return nil, values, err
	}
	return k.start(ctx, Options{})
}
