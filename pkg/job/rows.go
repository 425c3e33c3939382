package job

import (
	"context"
	"errors"
	"fmt"

	"databus/schemas/codec"
)

// NewRows returns the Codec of a kind's group table on the registry. While the registry cannot be reached, or does not know a
// schema yet, it waits, until ctx ends. Use it with codec.For[event.JobState] of the table topic.
func NewRows(ctx context.Context, serde *codec.Serde[State]) Codec { return rows{ctx, serde} }

type rows struct {
	ctx   context.Context // goka's codecs know none
	serde *codec.Serde[State]
}

func (r rows) Encode(value any) ([]byte, error) {
	s, err := row(value)
	if err != nil {
		return nil, err
	}
	if s == nil {
		return nil, errors.New("encoding a row: there is none")
	}
	return patiently(r.ctx, func() ([]byte, error) { return r.serde.Encode(r.ctx, s) })
}

func (r rows) Decode(data []byte) (any, error) {
	s, err := patiently(r.ctx, func() (*State, error) {
		s := new(State)
		return s, r.serde.Decode(r.ctx, data, s)
	})
	if err != nil {
		return nil, fmt.Errorf("decoding a row: %w", err)
	}
	return s, nil
}
