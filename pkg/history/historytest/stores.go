package historytest

import (
	"context"
	"sync"

	"databus/pkg/identity"
)

// Stores passes everything on and lets a test look at, hold up or refuse what is written.
type Stores struct {
	identity.Stores

	mu     sync.Mutex
	before func(ctx context.Context, keyspace string, changes []identity.Change) error
}

// Before sets what happens before changes are applied; nil ends it.
func (s *Stores) Before(f func(ctx context.Context, keyspace string, changes []identity.Change) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before = f
}

// Keyspace implements identity.Stores.
func (s *Stores) Keyspace(name string) (identity.Store, error) {
	inner, err := s.Stores.Keyspace(name)
	if err != nil {
		return nil, err
	}
	return &store{Store: inner, stores: s}, nil
}

type store struct {
	identity.Store
	stores *Stores
}

func (s *store) Apply(ctx context.Context, changes []identity.Change) error {
	s.stores.mu.Lock()
	before := s.stores.before
	s.stores.mu.Unlock()
	if before != nil {
		if err := before(ctx, s.Keyspace(), changes); err != nil {
			return err
		}
	}
	return s.Store.Apply(ctx, changes)
}
