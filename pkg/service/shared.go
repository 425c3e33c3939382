package service

import (
	"context"
	"sync"
)

// Shared is one thing that services of a process have in common, such as the bucket: it is opened when the first of them asks for
// it, and closed with the process. Who opens it is not this package, so that a program links what its services use and no more.
type Shared[T any] struct {
	// Open makes it for a process: once, and again for the next who asks where it failed. ctx is that of the one who asks first;
	// the thing outlives it. close may be nil.
	Open func(ctx context.Context, p *Process) (thing T, close func() error, err error)
}

// Of returns the thing of the service's process. The service must not close it.
func (s *Shared[T]) Of(ctx context.Context, e *Env) (T, error) { return s.In(ctx, e.process) }

// In returns the thing of a process.
func (s *Shared[T]) In(ctx context.Context, p *Process) (T, error) {
	o := p.opened(s)
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.thing != nil {
		return o.thing.(T), nil
	}
	thing, closer, err := s.Open(ctx, p)
	if err != nil {
		return thing, err
	}
	o.thing = thing
	if closer != nil {
		p.mu.Lock()
		p.closers = append(p.closers, closer)
		p.mu.Unlock()
	}
	return thing, nil
}

// Given makes thing the process's, unless it is nil. Whoever gives it closes it.
func (s *Shared[T]) Given(thing T) Given { return Given{s, thing} }

// Given is a [Shared] thing that a process need not open itself.
type Given struct{ shared, thing any }

// opened is a place for a Shared's thing; nil is none yet. Opening may wait, so each has a lock of its own.
type opened struct {
	mu    sync.Mutex
	thing any
}

// opened returns the place of a Shared, given by its address.
func (p *Process) opened(shared any) *opened {
	p.mu.Lock()
	defer p.mu.Unlock()
	o := p.shared[shared]
	if o == nil {
		o = &opened{}
		p.shared[shared] = o
	}
	return o
}
