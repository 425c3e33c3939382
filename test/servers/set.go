package servers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	"databus/test/servers/fetch"
)

// Environment variables that carry a shared set's addresses to tests.
const (
	KafkaVariable     = "DATABUS_TEST_KAFKA"         // host:port, comma-separated
	RegistryVariable  = "DATABUS_TEST_REGISTRY"      // base URL of the Confluent API
	CassandraVariable = "DATABUS_TEST_CASSANDRA"     // host:port, comma-separated
	S3Variable        = "DATABUS_TEST_S3"            // endpoint URL
	S3RegionVariable  = "DATABUS_TEST_S3_REGION"     // for example us-east-1
	S3AccessVariable  = "DATABUS_TEST_S3_ACCESS_KEY" // access key id
	S3SecretVariable  = "DATABUS_TEST_S3_SECRET_KEY" // secret access key

	// StackVariable set to "external" says: use the servers these variables name, start none.
	StackVariable = "STACK"
	externalStack = "external"
)

// External says whether the user runs the servers.
func External() bool { return os.Getenv(StackVariable) == externalStack }

// kind is what a set knows about one server.
type kind struct {
	name      string
	variables []string
	// start returns the process and the values of the variables, in order.
	start func(ctx context.Context, o Options) (*Process, []string, error)
	// ready asks the server that the values name.
	ready func(ctx context.Context, values []string) error
}

// kinds lists the servers of a set, slowest first.
func kinds() []kind {
	return []kind{
		{
			name: "cassandra", variables: []string{CassandraVariable},
			start: func(ctx context.Context, o Options) (*Process, []string, error) {
				n, err := StartCassandra(ctx, o)
				if err != nil {
					return nil, nil, err
				}
				return n.Process, []string{n.Addr}, nil
			},
			ready: func(ctx context.Context, v []string) error { return cassandraReady(ctx, v[0]) },
		},
		{
			name: "kafka", variables: []string{KafkaVariable},
			start: func(ctx context.Context, o Options) (*Process, []string, error) {
				p, err := StartKafka(ctx, o)
				if err != nil {
					return nil, nil, err
				}
				return p, []string{p.Addr}, nil
			},
			ready: func(ctx context.Context, v []string) error { return kafkaReady(ctx, v[0], "") },
		},
		{
			name: "registry", variables: []string{RegistryVariable},
			start: func(ctx context.Context, o Options) (*Process, []string, error) {
				p, err := StartRegistry(ctx, o)
				if err != nil {
					return nil, nil, err
				}
				return p, []string{RegistryURL(p)}, nil
			},
			ready: func(ctx context.Context, v []string) error { return registryReady(ctx, v[0]) },
		},
		{
			name: "s3", variables: []string{S3Variable, S3RegionVariable, S3AccessVariable, S3SecretVariable},
			start: func(ctx context.Context, o Options) (*Process, []string, error) {
				s, err := StartS3(ctx, o)
				if err != nil {
					return nil, nil, err
				}
				return s.Process, []string{s.Endpoint, s.Region, s.AccessKey, s.SecretKey}, nil
			},
			ready: func(ctx context.Context, v []string) error { return s3Ready(ctx, s3Config(v)) },
		},
	}
}

func s3Config(v []string) S3Config {
	return S3Config{Endpoint: v[0], Region: v[1], AccessKey: v[2], SecretKey: v[3]}
}

// fromEnvironment returns the values of the kind's variables, and whether all are set.
func (k kind) fromEnvironment() (values []string, complete bool) {
	complete = true
	for _, name := range k.variables {
		v := os.Getenv(name)
		if v == "" && name == S3RegionVariable {
			v = "us-east-1"
		}
		values, complete = append(values, v), complete && v != ""
	}
	return values, complete
}

// external returns the values of servers that the user runs, after asking the server.
func (k kind) external(ctx context.Context) ([]string, error) {
	values, complete := k.fromEnvironment()
	if !complete {
		return nil, fmt.Errorf("finding %s: %s=%s, but of %s not all are set; set them, or unset %s to have the server started",
			k.name, StackVariable, externalStack, strings.Join(k.variables, ", "), StackVariable)
	}
	ctx, cancel := context.WithTimeout(ctx, 6*readyTry)
	defer cancel()
	if err := k.ready(ctx, values); err != nil {
		return nil, fmt.Errorf("asking %s, named by %s: %w; start it, or unset the variable and %s to have one started",
			k.name, k.variables[0], err, StackVariable)
	}
	return values, nil
}

// Names returns the names that StartSet knows.
func Names() []string {
	var names []string
	for _, k := range kinds() {
		names = append(names, k.name)
	}
	slices.Sort(names)
	return names
}

// Set is one running server of each chosen kind.
type Set struct {
	Processes []*Process // empty when the user runs the servers
	env       []string
	release   func() // frees the run directory; nil when Options.Dir named one
}

// StartSet starts the named servers at the same time and waits for all of them. With STACK=external it starts none and
// only asks those that the environment names. On an error nothing is left running.
func StartSet(ctx context.Context, names []string, o Options) (*Set, error) {
	set := &Set{}
	known := Names()
	for _, n := range names {
		if !slices.Contains(known, n) {
			return nil, fmt.Errorf("starting servers: no server is called %q; there are %s", n, strings.Join(known, ", "))
		}
	}
	if o.Dir == "" && !External() { // one directory for all logs
		cache, err := fetch.Open()
		if err != nil {
			return nil, err
		}
		if o.Dir, set.release, err = newRun(cache); err != nil {
			return nil, err
		}
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	var errs []error
	for _, k := range kinds() {
		if !slices.Contains(names, k.name) {
			continue
		}
		wg.Go(func() {
			var p *Process
			var values []string
			var err error
			if External() {
				values, err = k.external(ctx)
			} else {
				p, values, err = k.start(ctx, o)
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
				return
			}
			if p != nil {
				set.Processes = append(set.Processes, p)
			}
			for i, name := range k.variables {
				set.env = append(set.env, name+"="+values[i])
			}
		})
	}
	wg.Wait()
	if len(errs) > 0 {
		set.Close()
		return nil, errors.Join(errs...)
	}
	slices.Sort(set.env)
	return set, nil
}

// Env returns the set's addresses as NAME=value.
func (s *Set) Env() []string { return slices.Clone(s.env) }

// Dead returns an error for each server that ended by itself.
func (s *Set) Dead() error {
	var errs []error
	for _, p := range s.Processes {
		if !p.Running() {
			errs = append(errs, p.failure("running", errors.New("it ended by itself")))
		}
	}
	return errors.Join(errs...)
}

// Close kills the servers and removes their data; logs stay.
func (s *Set) Close() {
	for _, p := range s.Processes {
		p.Close()
		if s.release != nil {
			_ = os.RemoveAll(p.Dir)
		}
	}
	if s.release != nil {
		s.release()
	}
}
