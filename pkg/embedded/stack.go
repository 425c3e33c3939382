package embedded

import (
	"errors"
	"log/slog"
	"path/filepath"
)

// Stack is a broker and a registry that belong together.
type Stack struct {
	Broker   *Broker
	Registry *Registry
}

// StackOptions say where a Stack listens and what it keeps. The zero value is a stack in memory on free ports.
type StackOptions struct {
	Dir          string // DIR/kafka and DIR/registry; empty: in memory
	BrokerPort   int    // 0: any free one
	RegistryPort int    // 0: any free one
	Logger       *slog.Logger
}

// StartStack starts both parts, or neither.
func StartStack(opts StackOptions) (*Stack, error) {
	b := BrokerOptions{Port: opts.BrokerPort, Logger: opts.Logger}
	r := RegistryOptions{Port: opts.RegistryPort}
	if opts.Dir != "" {
		b.Dir, r.Dir = filepath.Join(opts.Dir, "kafka"), filepath.Join(opts.Dir, "registry")
	}
	broker, err := StartBroker(b)
	if err != nil {
		return nil, err
	}
	registry, err := StartRegistry(r)
	if err != nil {
		return nil, errors.Join(err, broker.Close())
	}
	return &Stack{Broker: broker, Registry: registry}, nil
}

// Close ends both parts. It may be called more than once.
func (s *Stack) Close() error { return errors.Join(s.Registry.Close(), s.Broker.Close()) }

// Test is what ForTest needs of a *testing.T or *testing.B.
type Test interface {
	Helper()
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
	Cleanup(func())
}

// ForTest starts a stack in memory that ends with the test. A test that restarts it uses StartStack on a directory of
// its own.
func ForTest(t Test) *Stack {
	t.Helper()
	s, err := StartStack(StackOptions{})
	if err != nil {
		t.Fatalf("starting the embedded stack: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("closing the embedded stack: %v", err)
		}
	})
	return s
}
