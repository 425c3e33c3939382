package codec

import (
	"context"
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
	if err := d.decode(topic, id, payload, &v); err != nil {
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
	t, ok := schemas.Lookup(topic)
	if !ok || t.Schema == "" {
		return nil, fmt.Errorf("topic %s has no schema in the catalogue; `databus topics list` names those that have", topic)
	}
	s, err := avro.Parse(t.AvroSchema())
	if err != nil {
		return nil, fmt.Errorf("parsing schema %s: %w", t.Schema, err)
	}
	var v any
	if err := s.DecodeJSON(text, &v); err != nil {
		return nil, &Error{Topic: topic, Kind: ErrUndecodable, Detail: err.Error()}
	}
	id, err := c.id(ctx, t)
	if err != nil {
		return nil, err
	}
	b := []byte{0, byte(id >> 24), byte(id >> 16), byte(id >> 8), byte(id)}
	b, err = s.AppendEncode(b, v)
	if err != nil {
		return nil, &Error{Topic: topic, SchemaID: id, Kind: ErrUndecodable, Detail: err.Error()}
	}
	if len(b) > c.limits.Bytes {
		return nil, &Error{Topic: topic, SchemaID: id, Kind: ErrTooLarge, Detail: fmt.Sprintf("%d bytes, at most %d", len(b), c.limits.Bytes)}
	}
	return b, nil
}
