package job

import (
	"context"
	"time"

	"databus/schemas/codec"
)

// registryPatience bounds one question to the registry; the coordinator asks again.
const registryPatience = 10 * time.Second

// Decode reads a value for a Kind's functions, which have no context. Errors are Temporary but for those of the bytes
// themselves.
func Decode[T any](serde *codec.Serde[T], value []byte) (*T, error) {
	return patient(func(ctx context.Context) (*T, error) {
		v := new(T)
		return v, serde.Decode(ctx, value, v)
	})
}

// Encode writes a value for a Kind's functions; see Decode.
func Encode[T any](serde *codec.Serde[T], v *T) ([]byte, error) {
	return patient(func(ctx context.Context) ([]byte, error) { return serde.Encode(ctx, v) })
}

// patient gives f a bounded context and marks what waiting can cure: all that is not the bytes' own fault.
func patient[T any](f func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(context.Background(), registryPatience)
	defer cancel()
	v, err := f(ctx)
	if err != nil && !codec.IsPoison(err) {
		err = Temporary(err)
	}
	return v, err
}
