package service

import (
	"context"
	"errors"
	"fmt"

	"databus/schemas"
)

// A Runner is a constructed service.
type Runner interface {
	// Run works until ctx is done, then drains and returns nil: everything accepted is finished or left for the next
	// start. An error means that the service cannot go on; the process ends and the error is what the operator reads.
	Run(ctx context.Context) error
}

// RunnerFunc is a function that is a [Runner].
type RunnerFunc func(ctx context.Context) error

// Run calls f.
func (f RunnerFunc) Run(ctx context.Context) error { return f(ctx) }

// A Definition is a service as a value. C is the type of its own configuration: a struct whose fields are booleans,
// numbers, strings, [Secret], time.Duration, lists of those, maps with string keys, and structs of the same. A field's
// key is its name in snake case, or what its tag `koanf:"..."` says; a tag `doc:"..."` becomes a comment in the printed
// configuration. If C or *C has a method Validate() error, loading calls it.
type Definition[C any] struct {
	// Name is the service's name in the catalogue: lower case with dashes.
	Name string
	// Summary says in one line what the service is for.
	Summary string
	// Topology lists the topics that the service touches; they are checked before it starts.
	Topology schemas.Topology
	// Needs are those of Topology's topics that a process with this configuration touches; nil means all.
	Needs func(cfg C) schemas.Topology
	// Default returns the default configuration; nil means the zero value.
	Default func() C
	// New constructs the service. It may open files and clients, but does not yet work; ctx ends with the process.
	New func(ctx context.Context, env *Env, cfg C) (Runner, error)
}

// A Service is a [Definition] of any configuration type, so that services can be held in one list.
type Service interface {
	Name() string
	Summary() string
	Topology() schemas.Topology
	// Start constructs the service with its default configuration, overlaid by overrides: its own keys as in YAML,
	// nested, without the service's name. All that is wrong with them comes back as one error.
	Start(ctx context.Context, env *Env, overrides map[string]any) (Runner, error)
	// DefaultYAML is the service's configuration file with all defaults, secrets redacted.
	DefaultYAML() ([]byte, error)
	// fields describes the service's own configuration keys and their defaults.
	fields() fieldTree
	// validate decodes the service's own keys and returns the configuration with all that is wrong with it.
	validate(own map[string]any) (any, error)
	// needs are the topics to check for what validate returned.
	needs(cfg any) schemas.Topology
	// start constructs the service from what validate returned.
	start(ctx context.Context, env *Env, cfg any) (Runner, error)
}

// Service returns the definition as a [Service].
func (d Definition[C]) Service() Service { return definition[C]{d} }

type definition[C any] struct{ def Definition[C] }

func (d definition[C]) Name() string               { return d.def.Name }
func (d definition[C]) Summary() string            { return d.def.Summary }
func (d definition[C]) Topology() schemas.Topology { return d.def.Topology }

func (d definition[C]) needs(cfg any) schemas.Topology {
	if d.def.Needs == nil {
		return d.def.Topology
	}
	return d.def.Needs(cfg.(C))
}

func (d definition[C]) defaults() C {
	if d.def.Default == nil {
		var zero C
		return zero
	}
	return d.def.Default()
}

func (d definition[C]) fields() fieldTree { return describe(d.defaults()) }

func (d definition[C]) validate(own map[string]any) (any, error) {
	cfg := d.defaults() // what cannot be decoded keeps its default, so that the rest is validated too
	err := decode(d.def.Name, own, &cfg)
	return cfg, errors.Join(err, prefixed(d.def.Name, callValidate(&cfg)))
}

func (d definition[C]) start(ctx context.Context, env *Env, cfg any) (Runner, error) {
	runner, err := d.def.New(ctx, env, cfg.(C))
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", d.def.Name, err)
	}
	return runner, nil
}

func (d definition[C]) Start(ctx context.Context, env *Env, overrides map[string]any) (Runner, error) {
	tree := d.fields()
	if err := tree.unknown(overrides, nil); err != nil {
		return nil, fmt.Errorf("configuring %s: %w", d.def.Name, err)
	}
	own, err := overlay(tree.defaults(), overrides)
	if err != nil {
		return nil, fmt.Errorf("configuring %s: %w", d.def.Name, err)
	}
	cfg, err := d.validate(own)
	if err != nil {
		return nil, fmt.Errorf("configuring %s: %w", d.def.Name, err)
	}
	return d.start(ctx, env, cfg)
}

func (d definition[C]) DefaultYAML() ([]byte, error) {
	shared := DefaultConfig()
	shared.Instance.ID = "" // the host name is no default to hand on
	return rootTree(shared, d.Name(), d.Summary(), d.fields()).yaml()
}
