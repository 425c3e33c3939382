package codec

import (
	"context"
	"encoding/binary"
	"maps"
	"sync"
	"sync/atomic"

	"github.com/twmb/avro"

	"databus/schemas"
)

// A Serde encodes and decodes the values of one topic as T, a generated type of package event.
type Serde[T any] struct {
	codec  *Codec
	topic  schemas.Topic
	schema *avro.Schema

	id       atomic.Int64 // the schema's id in the registry; 0 until asked
	mu       sync.Mutex
	decoders atomic.Pointer[map[int]*decoder]
}

// A decoder reads values of one writer's schema.
type decoder struct {
	schema *avro.Schema // writer's bytes to reader's layout
	guard  *guard
}

// For returns the serde of a topic of the catalogue. It asks the registry nothing yet; [Serde.Ready] does.
func For[T any](c *Codec, topic string) *Serde[T] {
	t := schemas.MustLookup(topic)
	s := &Serde[T]{codec: c, topic: t, schema: avro.MustParse(t.AvroSchema())}
	s.decoders.Store(&map[int]*decoder{})
	return s
}

// Ready asks the registry for the schema's id (or registers it, as the codec's options say), so that a service finds
// out at its start whether it will be able to produce.
func (s *Serde[T]) Ready(ctx context.Context) error {
	_, err := s.schemaID(ctx)
	return err
}

func (s *Serde[T]) schemaID(ctx context.Context) (int, error) {
	if id := s.id.Load(); id != 0 {
		return int(id), nil
	}
	id, err := s.codec.id(ctx, s.topic)
	if err != nil {
		return 0, err
	}
	s.id.Store(int64(id))
	return id, nil
}

// Encode returns v in wire format.
func (s *Serde[T]) Encode(ctx context.Context, v *T) ([]byte, error) { return s.Append(ctx, nil, v) }

// Append appends v in wire format to dst.
func (s *Serde[T]) Append(ctx context.Context, dst []byte, v *T) ([]byte, error) {
	id, err := s.schemaID(ctx)
	if err != nil {
		return dst, err
	}
	start := len(dst)
	dst = binary.BigEndian.AppendUint32(append(dst, 0), uint32(id))
	dst, err = s.schema.AppendEncode(dst, v)
	if err != nil {
		return dst[:start], &Error{Topic: s.topic.Name, SchemaID: id, Kind: ErrUndecodable, Detail: "encoding: " + err.Error()}
	}
	if n := len(dst) - start; n > s.codec.limits.Bytes {
		return dst[:start], &Error{Topic: s.topic.Name, SchemaID: id, Kind: ErrTooLarge, Detail: "encoding: the event is larger than the limit"}
	}
	return dst, nil
}

// Decode reads a message into v. Strings and byte slices of v are copies.
func (s *Serde[T]) Decode(ctx context.Context, b []byte, v *T) error {
	return s.decode(ctx, b, v, nil)
}

// DecodeShared is Decode without copies: strings and byte slices of v are parts of b, which must not change while they are in
// use, and clone what outlives the message.
func (s *Serde[T]) DecodeShared(ctx context.Context, b []byte, v *T) error {
	return s.decode(ctx, b, v, shared)
}

var shared = []avro.Opt{avro.AliasInput()}

func (s *Serde[T]) decode(ctx context.Context, b []byte, v *T, opts []avro.Opt) error {
	id, payload, err := s.codec.split(s.topic.Name, b)
	if err != nil {
		return err
	}
	d, ok := (*s.decoders.Load())[id]
	if !ok {
		if d, err = s.decoder(ctx, id); err != nil {
			return err
		}
	}
	return d.decode(s.topic.Name, id, payload, v, opts)
}

func (d *decoder) decode(topic string, id int, payload []byte, v any, opts []avro.Opt) error {
	if d.guard != nil {
		if err := d.guard.check(payload); err != nil {
			return guardError(topic, id, err)
		}
	}
	rest, err := d.schema.Decode(payload, v, opts...)
	if err != nil {
		return &Error{Topic: topic, SchemaID: id, Kind: ErrUndecodable, Detail: err.Error()}
	}
	if len(rest) > 0 {
		return &Error{Topic: topic, SchemaID: id, Kind: ErrUndecodable, Detail: "bytes are left behind the value"}
	}
	return nil
}

func (s *Serde[T]) decoder(ctx context.Context, id int) (*decoder, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d, ok := (*s.decoders.Load())[id]; ok {
		return d, nil
	}
	w, err := s.codec.writer(ctx, s.topic.Name, id)
	if err != nil {
		return nil, err
	}
	d, err := newDecoder(s.topic.Name, id, w, s.schema, s.codec.limits)
	if err != nil {
		return nil, err
	}
	next := maps.Clone(*s.decoders.Load())
	next[id] = d
	s.decoders.Store(&next)
	return d, nil
}

// newDecoder resolves the writer's schema to the reader's. A record of another name is another topic's event, even
// where its fields happen to fit.
func newDecoder(topic string, id int, writer, reader *avro.Schema, limits Limits) (*decoder, error) {
	wr, rr := writer.Root(), reader.Root()
	if wr.Name != rr.Name || wr.Namespace != rr.Namespace {
		return nil, &Error{Topic: topic, SchemaID: id, Kind: ErrWrongSchema,
			Detail: "the schema is " + fullName(wr) + ", the topic's is " + fullName(rr)}
	}
	resolved, err := avro.Resolve(writer, reader)
	if err != nil {
		return nil, &Error{Topic: topic, SchemaID: id, Kind: ErrWrongSchema, Detail: err.Error()}
	}
	return &decoder{schema: resolved, guard: newGuard(wr, limits)}, nil
}

func fullName(n *avro.SchemaNode) string {
	if n.Namespace == "" {
		return n.Name + " (" + n.Type + ")"
	}
	return n.Namespace + "." + n.Name
}
