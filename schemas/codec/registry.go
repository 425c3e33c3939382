package codec

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/riferrei/srclient"
)

// A Registry is what a codec needs of a schema registry. Errors wrap [ErrUnknownSchema], [ErrIncompatible] or
// [ErrUnavailable].
type Registry interface {
	// Schema returns the schema with the given id, as JSON.
	Schema(ctx context.Context, id int) (string, error)
	// ID returns the id under which the subject already has the schema.
	ID(ctx context.Context, subject, schema string) (int, error)
	// Register adds the schema to the subject, or finds it there, and returns its id.
	Register(ctx context.Context, subject, schema string) (int, error)
	// Compatible asks whether the schema gets along with every version of the subject, each under the subject's level; if
	// not it is ErrIncompatible.
	Compatible(ctx context.Context, subject, schema string) error
	// SetCompatibility sets the subject's level, for example "BACKWARD_TRANSITIVE".
	SetCompatibility(ctx context.Context, subject, level string) error
}

// NewRegistry returns a client of the schema registry at url: the base of a Confluent-compatible API, such as
// http://127.0.0.1:8081 or Apicurio's http://127.0.0.1:8080/apis/ccompat/v7. It does not connect yet.
func NewRegistry(url string) Registry {
	c := srclient.NewSchemaRegistryClient(strings.TrimRight(url, "/"), srclient.WithClient(&http.Client{Timeout: 10 * time.Second}))
	c.CachingEnabled(false) // the codec caches what it has checked
	c.CodecCreationEnabled(false)
	return &registry{url: url, client: c}
}

type registry struct {
	url    string
	client *srclient.SchemaRegistryClient
}

// call runs f, which knows no context, and gives up on it when ctx ends; the HTTP client's timeout ends f itself.
func call[T any](ctx context.Context, r *registry, what string, f func() (T, error)) (T, error) {
	type answer struct {
		v   T
		err error
	}
	done := make(chan answer, 1)
	go func() {
		v, err := f()
		done <- answer{v, err}
	}()
	var zero T
	select {
	case <-ctx.Done():
		return zero, fmt.Errorf("%s at %s: %w: %w", what, r.url, ErrUnavailable, ctx.Err())
	case a := <-done:
		if a.err == nil {
			return a.v, nil
		}
		return zero, fmt.Errorf("%s at %s: %w: %w", what, r.url, classify(a.err), a.err)
	}
}

// classify maps the registry's answer to the package's errors. Error codes are the Confluent API's: the HTTP status,
// followed by two digits of its own.
func classify(err error) error {
	var e srclient.Error
	if !errors.As(err, &e) {
		return ErrUnavailable
	}
	status := e.Code
	for status > 999 {
		status /= 10
	}
	switch status {
	case http.StatusNotFound:
		return ErrUnknownSchema
	case http.StatusConflict, http.StatusUnprocessableEntity:
		return ErrIncompatible
	}
	return ErrUnavailable
}

func (r *registry) Schema(ctx context.Context, id int) (string, error) {
	return call(ctx, r, fmt.Sprintf("reading schema %d", id), func() (string, error) {
		s, err := r.client.GetSchema(id)
		if err != nil {
			return "", err
		}
		return s.Schema(), nil
	})
}

func (r *registry) ID(ctx context.Context, subject, schema string) (int, error) {
	return call(ctx, r, "looking up the schema of "+subject, func() (int, error) {
		s, err := r.client.LookupSchema(subject, schema, srclient.Avro)
		if err != nil {
			return 0, err
		}
		return s.ID(), nil
	})
}

func (r *registry) Register(ctx context.Context, subject, schema string) (int, error) {
	return call(ctx, r, "registering the schema of "+subject, func() (int, error) {
		s, err := r.client.CreateSchema(subject, schema, srclient.Avro)
		if err != nil {
			return 0, err
		}
		return s.ID(), nil
	})
}

func (r *registry) Compatible(ctx context.Context, subject, schema string) error {
	versions, err := call(ctx, r, "listing the versions of "+subject, func() ([]int, error) { return r.client.GetSchemaVersions(subject) })
	if errors.Is(err, ErrUnknownSchema) {
		return nil // a subject without versions accepts any schema
	}
	if err != nil {
		return err
	}
	for _, v := range versions {
		ok, err := call(ctx, r, "checking the schema of "+subject, func() (bool, error) {
			return r.client.IsSchemaCompatible(subject, schema, strconv.Itoa(v), srclient.Avro)
		})
		if err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("subject %s: %w with version %d at %s", subject, ErrIncompatible, v, r.url)
		}
	}
	return nil
}

func (r *registry) SetCompatibility(ctx context.Context, subject, level string) error {
	_, err := call(ctx, r, "setting the compatibility of "+subject, func() (*srclient.CompatibilityLevel, error) {
		return r.client.ChangeSubjectCompatibilityLevel(subject, srclient.CompatibilityLevel(level))
	})
	return err
}
