package embedded

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/twmb/avro"
)

// RegistryOptions say where a Registry listens and what it keeps.
// The zero value is a registry in memory on a free port of the loopback interface.
type RegistryOptions struct {
	// Dir holds the registry's one file. It is created if need be and belongs to one registry at a time.
	// Empty: everything is in memory and gone after Close.
	Dir string
	// Port of the loopback interface; 0 means any free one.
	Port int
	// Level is the compatibility level of subjects without one of their own, until a client sets another. Empty means
	// LevelBackward, as in other registries. A level set by a client and kept in Dir wins.
	Level Level
}

// What a registry holds is bounded.
const (
	maxBody     = 1 << 20 // bytes of a request
	maxSubjects = 10_000
	maxVersions = 1_000 // of a subject
)

// Registry is a schema registry in this process, with the part of the Confluent API that clients use to register, look
// up and evolve Avro schemas. It is safe for concurrent use.
type Registry struct {
	path   string // of the file; empty in memory
	lock   io.Closer
	server *http.Server
	url    string
	served chan error
	once   sync.Once
	err    error

	mu     sync.RWMutex
	state  registryState
	parsed map[int]*avro.Schema // by schema id
	byText map[string]int       // schema id by identity
}

// registryState is what the file holds. Versions count from 1, so version v of a subject is Versions[v-1].
type registryState struct {
	Level    Level                    `json:"level"`
	Schemas  []string                 `json:"schemas"` // schema id i is Schemas[i-1]
	Subjects map[string]*subjectState `json:"subjects"`
}

type subjectState struct {
	Level    Level `json:"level,omitempty"`    // empty: the registry's
	Versions []int `json:"versions,omitempty"` // schema ids
}

// StartRegistry starts a registry and returns once it accepts connections. It fails if another process uses the
// directory, if the port is taken, or if the file cannot be read; it never starts empty on a damaged file, because
// then ids would be given out a second time.
func StartRegistry(opts RegistryOptions) (_ *Registry, err error) {
	if opts.Level == "" {
		opts.Level = LevelBackward
	}
	if !opts.Level.valid() {
		return nil, fmt.Errorf("compatibility level %q is unknown", opts.Level)
	}
	r := &Registry{
		state:  registryState{Level: opts.Level, Subjects: make(map[string]*subjectState)},
		parsed: make(map[int]*avro.Schema),
		byText: make(map[string]int),
		served: make(chan error, 1),
	}
	defer func() {
		if err != nil && r.lock != nil {
			err = errors.Join(err, r.lock.Close())
		}
	}()
	if opts.Dir != "" {
		if err := os.MkdirAll(opts.Dir, 0o750); err != nil {
			return nil, fmt.Errorf("creating the registry's directory: %w", err)
		}
		if r.lock, err = lockDir(opts.Dir); err != nil {
			return nil, fmt.Errorf("locking the registry's directory: %w", err)
		}
		r.path = filepath.Join(opts.Dir, "registry.json")
		if err := r.load(); err != nil {
			return nil, fmt.Errorf("reading %s: %w", r.path, err)
		}
	}
	ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", opts.Port))
	if err != nil {
		return nil, fmt.Errorf("starting the embedded registry: %w", err)
	}
	r.url = "http://" + ln.Addr().String()
	r.server = &http.Server{
		Handler:           r.handler(),
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    1 << 16,
	}
	go func() { r.served <- r.server.Serve(ln) }()
	return r, nil
}

// URL returns the registry's base address, without a slash at its end.
func (r *Registry) URL() string { return r.url }

// Close ends the registry, waiting up to a second for requests under way. It may be called more than once.
func (r *Registry) Close() error {
	r.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if r.server.Shutdown(ctx) != nil {
			r.err = r.server.Close() // most likely a connection that a client opened and never used
		}
		if err := <-r.served; !errors.Is(err, http.ErrServerClosed) {
			r.err = errors.Join(r.err, err)
		}
		if r.lock != nil {
			r.err = errors.Join(r.err, r.lock.Close())
		}
	})
	return r.err
}

// load reads the file and checks that all it refers to is there.
func (r *Registry) load() error {
	raw, err := os.ReadFile(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var s registryState
	if err := json.Unmarshal(raw, &s); err != nil {
		return err
	}
	for i, text := range s.Schemas {
		schema, identity, err := parseSchema(text)
		if err != nil {
			return fmt.Errorf("schema %d: %w", i+1, err)
		}
		r.parsed[i+1], r.byText[identity] = schema, i+1
	}
	if !s.Level.valid() {
		return fmt.Errorf("compatibility level %q is unknown", s.Level)
	}
	for name, sub := range s.Subjects {
		if sub == nil || sub.Level != "" && !sub.Level.valid() {
			return fmt.Errorf("subject %s has an unknown compatibility level", name)
		}
		for _, id := range sub.Versions {
			if r.parsed[id] == nil {
				return fmt.Errorf("subject %s refers to schema %d, which is not there", name, id)
			}
		}
	}
	if s.Subjects == nil {
		s.Subjects = make(map[string]*subjectState)
	}
	r.state = s
	return nil
}

// change makes the change on a copy, keeps that, and only then lets others see it. The caller holds r.mu.
func (r *Registry) change(fn func(*registryState)) error {
	next := registryState{Level: r.state.Level, Schemas: slices.Clone(r.state.Schemas), Subjects: maps.Clone(r.state.Subjects)}
	fn(&next)
	if r.path != "" {
		data, err := json.MarshalIndent(next, "", " ")
		if err != nil {
			return err
		}
		if err := writeFileAtomic(r.path, data); err != nil {
			return fmt.Errorf("keeping the registry's state: %w", err)
		}
	}
	r.state = next
	return nil
}

// subject returns a copy of the subject that the caller may change and put back, empty if there is none.
func (s *registryState) subject(name string) *subjectState {
	if sub := s.Subjects[name]; sub != nil {
		return &subjectState{Level: sub.Level, Versions: slices.Clone(sub.Versions)}
	}
	return new(subjectState)
}

// level returns the level that holds for a subject. The caller holds r.mu.
func (r *Registry) level(subject string) Level {
	if sub := r.state.Subjects[subject]; sub != nil && sub.Level != "" {
		return sub.Level
	}
	return r.state.Level
}

// versions returns a subject's schema ids, oldest first; none if it is unknown. The caller holds r.mu.
func (r *Registry) versions(subject string) []int {
	if sub := r.state.Subjects[subject]; sub != nil {
		return sub.Versions
	}
	return nil
}

// register returns the schema's id, under which the subject now has it. A schema that the subject has already is left
// where it is; one that other subjects have keeps its id.
func (r *Registry) register(subject, text string) (int, error) {
	schema, identity, err := parseSchema(text)
	if err != nil {
		return 0, errInvalidSchema(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	id, known := r.byText[identity]
	versions := r.versions(subject)
	if known && slices.Contains(versions, id) {
		return id, nil
	}
	if len(versions) == 0 && len(r.state.Subjects) >= maxSubjects || len(versions) >= maxVersions {
		return 0, errFull
	}
	level := r.level(subject)
	if problem := r.check(level, schema, versions, level.transitive()); problem != "" {
		return 0, errIncompatible(subject, problem)
	}
	err = r.change(func(s *registryState) {
		if !known {
			s.Schemas = append(s.Schemas, schema.String())
			id = len(s.Schemas)
		}
		sub := s.subject(subject)
		sub.Versions = append(sub.Versions, id)
		s.Subjects[subject] = sub
	})
	if err != nil {
		return 0, err
	}
	r.parsed[id], r.byText[identity] = schema, id
	return id, nil
}
