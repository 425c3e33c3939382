package codec

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/twmb/avro"

	"databus/schemas"
)

// JSON returns a message as Avro's JSON, in its writer's version of the schema. Bare unions: {"provider":"x"}.
func (c *Codec) JSON(ctx context.Context, topic string, b []byte) ([]byte, error) {
	id, w, payload, err := c.Writer(ctx, topic, b)
	if err != nil {
		return nil, err
	}
	d := decoder{schema: w, guard: newGuard(w.Root(), c.limits)}
	var v any
	if err := d.decode(topic, id, payload, &v, nil); err != nil {
		return nil, err
	}
	out, err := w.EncodeJSON(v)
	if err != nil {
		return nil, &Error{Topic: topic, SchemaID: id, Kind: ErrUndecodable, Detail: err.Error()}
	}
	return out, nil
}

// FromJSON returns the message for a JSON value of the topic's own schema. Fields with a default may be left out;
// timestamps are numbers in the schema's unit.
func (c *Codec) FromJSON(ctx context.Context, topic string, text []byte) ([]byte, error) {
	p, err := c.producer(ctx, topic)
	if err != nil {
		return nil, err
	}
	var v any
	if err := p.schema.DecodeJSON(text, &v); err != nil {
		return nil, &Error{Topic: topic, Kind: ErrUndecodable, Detail: err.Error()}
	}
	b := binary.BigEndian.AppendUint32([]byte{0}, uint32(p.id))
	b, err = p.schema.AppendEncode(b, v)
	if err != nil {
		return nil, &Error{Topic: topic, SchemaID: p.id, Kind: ErrUndecodable, Detail: err.Error()}
	}
	if len(b) > c.limits.Bytes {
		return nil, &Error{Topic: topic, SchemaID: p.id, Kind: ErrTooLarge, Detail: fmt.Sprintf("%d bytes, at most %d", len(b), c.limits.Bytes)}
	}
	return b, nil
}

// A producer is a topic's own schema with its id in the registry.
type producer struct {
	id     int
	schema *avro.Schema
}

// producer asks the registry once per topic.
func (c *Codec) producer(ctx context.Context, topic string) (producer, error) {
	if p, ok := c.producers.Load(topic); ok {
		return p.(producer), nil
	}
	t, ok := schemas.Lookup(topic)
	if !ok || t.Schema == "" {
		return producer{}, fmt.Errorf("topic %s has no schema in the catalogue; `databus topics list` names those that have", topic)
	}
	s, err := avro.Parse(t.AvroSchema())
	if err != nil {
		return producer{}, fmt.Errorf("parsing schema %s: %w", t.Schema, err)
	}
	id, err := c.id(ctx, t)
	if err != nil {
		return producer{}, err
	}
	p := producer{id, s}
	c.producers.Store(topic, p)
	return p, nil
}
