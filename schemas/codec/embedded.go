package codec

import (
	"errors"
	"fmt"

	"github.com/twmb/avro"

	"databus/schemas"
)

// Embedded encodes values that are not a topic's: those inside sealed bytes. Their writer's schema is named by its
// fingerprint instead of a registry id.
type Embedded[T any] struct {
	name        string
	schema      *avro.Schema
	fingerprint []byte
	guard       *guard
	limits      Limits
}

// ForEmbedded returns the codec of a schema of the catalogue's directory, such as "record_payload".
func ForEmbedded[T any](schema string) *Embedded[T] {
	text, ok := schemas.Avro(schema)
	if !ok {
		panic("schema " + schema + " does not exist")
	}
	s := avro.MustParse(text)
	return &Embedded[T]{name: schema, schema: s, fingerprint: s.Fingerprint(avro.NewRabin()), guard: newGuard(s.Root(), DefaultLimits()), limits: DefaultLimits()}
}

// Fingerprint is the CRC-64-AVRO of the schema's canonical form, 8 bytes.
func (e *Embedded[T]) Fingerprint() []byte { return e.fingerprint }

// Append appends v in Avro to dst.
func (e *Embedded[T]) Append(dst []byte, v *T) ([]byte, error) {
	out, err := e.schema.AppendEncode(dst, v)
	if err != nil {
		return dst, fmt.Errorf("encoding %s: %w", e.name, err)
	}
	return out, nil
}

// Decode reads the whole of b into v.
func (e *Embedded[T]) Decode(b []byte, v *T) error {
	if len(b) > e.limits.Bytes {
		return &Error{Topic: e.name, Kind: ErrTooLarge, Detail: fmt.Sprintf("%d bytes", len(b))}
	}
	d := decoder{schema: e.schema, guard: e.guard}
	return d.decode(e.name, 0, b, v, nil)
}

func guardError(topic string, id int, err error) error {
	kind := ErrUndecodable
	if errors.Is(err, ErrTooLarge) {
		kind = ErrTooLarge
	}
	return &Error{Topic: topic, SchemaID: id, Kind: kind, Detail: err.Error()}
}
