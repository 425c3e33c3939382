package codec

import "fmt"

// JSON returns what Append wrote as Avro's JSON, as [Codec.JSON] does with messages.
func (e *Embedded[T]) JSON(b []byte) ([]byte, error) {
	if len(b) > e.limits.Bytes {
		return nil, &Error{Topic: e.name, Kind: ErrTooLarge, Detail: fmt.Sprintf("%d bytes", len(b))}
	}
	d := decoder{schema: e.schema, guard: e.guard}
	var v any
	if err := d.decode(e.name, 0, b, &v, nil); err != nil {
		return nil, err
	}
	out, err := e.schema.EncodeJSON(v)
	if err != nil {
		return nil, &Error{Topic: e.name, Kind: ErrUndecodable, Detail: err.Error()}
	}
	return out, nil
}
