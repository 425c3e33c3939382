package codec

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"

	"github.com/twmb/avro"

	"databus/schemas"
)

// Options configure a Codec.
type Options struct {
	// Limits of incoming and outgoing values; zero fields take their defaults.
	Limits Limits
	// RegisterSchemas lets a producer register its schema; otherwise the registry must already know it.
	RegisterSchemas bool
}

// A Codec knows the registry's schemas. Writers' schemas are cached for good: a schema id never changes its meaning.
type Codec struct {
	registry Registry
	limits   Limits
	register bool

	mu      sync.Mutex // held while a schema is asked for, so that each is asked for once
	writers atomic.Pointer[map[int]*avro.Schema]

	producers sync.Map // topic to producer, for JSON
}

// New returns a codec on a registry.
func New(registry Registry, o Options) *Codec {
	d := DefaultLimits()
	if o.Limits.Bytes == 0 {
		o.Limits.Bytes = d.Bytes
	}
	if o.Limits.Items == 0 {
		o.Limits.Items = d.Items
	}
	if o.Limits.Depth == 0 {
		o.Limits.Depth = d.Depth
	}
	c := &Codec{registry: registry, limits: o.Limits, register: o.RegisterSchemas}
	c.writers.Store(&map[int]*avro.Schema{})
	return c
}

// headerSize is the zero byte and the schema id.
const headerSize = 5

// Writer splits a message into its writer's schema and the Avro bytes behind it. The schema is the one that the
// registry has under the message's id.
func (c *Codec) Writer(ctx context.Context, topic string, b []byte) (id int, s *avro.Schema, payload []byte, err error) {
	id, payload, err = c.split(topic, b)
	if err != nil {
		return 0, nil, nil, err
	}
	s, err = c.writer(ctx, topic, id)
	return id, s, payload, err
}

func (c *Codec) split(topic string, b []byte) (int, []byte, error) {
	switch {
	case len(b) > c.limits.Bytes:
		return 0, nil, &Error{Topic: topic, Kind: ErrTooLarge, Detail: fmt.Sprintf("%d bytes, at most %d", len(b), c.limits.Bytes)}
	case len(b) < headerSize:
		return 0, nil, &Error{Topic: topic, Kind: ErrUndecodable, Detail: fmt.Sprintf("%d bytes are too few for the registry's wire format", len(b))}
	case b[0] != 0:
		return 0, nil, &Error{Topic: topic, Kind: ErrUndecodable, Detail: fmt.Sprintf("first byte is %d, not 0", b[0])}
	}
	return int(binary.BigEndian.Uint32(b[1:])), b[headerSize:], nil
}

// writer returns the schema with an id, from the cache or the registry.
func (c *Codec) writer(ctx context.Context, topic string, id int) (*avro.Schema, error) {
	if s, ok := (*c.writers.Load())[id]; ok {
		return s, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if s, ok := (*c.writers.Load())[id]; ok {
		return s, nil
	}
	text, err := c.registry.Schema(ctx, id)
	if err != nil {
		return nil, registryError(topic, id, err)
	}
	s, err := avro.Parse(text)
	if err != nil {
		return nil, &Error{Topic: topic, SchemaID: id, Kind: ErrWrongSchema, Detail: "the registry's schema does not parse: " + err.Error()}
	}
	next := maps.Clone(*c.writers.Load())
	next[id] = s
	c.writers.Store(&next)
	return s, nil
}

func registryError(topic string, id int, err error) error {
	kind := ErrUnavailable
	for _, k := range []error{ErrUnknownSchema, ErrIncompatible} {
		if errors.Is(err, k) {
			kind = k
		}
	}
	return &Error{Topic: topic, SchemaID: id, Kind: kind, Detail: err.Error()}
}

// id returns the id under which the registry knows a producer's schema.
func (c *Codec) id(ctx context.Context, t schemas.Topic) (int, error) {
	ask := c.registry.ID
	if c.register {
		ask = c.registry.Register
	}
	id, err := ask(ctx, t.Subject(), t.AvroSchema())
	if err != nil {
		return 0, registryError(t.Name, 0, err)
	}
	return id, nil
}
