package codec

import (
	"context"
	"errors"
	"fmt"

	"databus/schemas"
)

// Compatibility is the level of every subject: a new schema reads what all earlier ones wrote.
const Compatibility = "BACKWARD_TRANSITIVE"

// RegisterCatalogue sets the level of each topic's subject and registers the topic's schema there; what is registered
// already stays as it is. each, which may be nil, is told every id. Incompatible schemas are skipped and returned joined;
// any other error ends it.
func RegisterCatalogue(ctx context.Context, r Registry, each func(t schemas.Topic, id int)) error {
	var refused []error
	for _, t := range schemas.Catalogue() {
		if t.Schema == "" {
			continue
		}
		if err := r.SetCompatibility(ctx, t.Subject(), Compatibility); err != nil {
			return err
		}
		id, err := r.Register(ctx, t.Subject(), t.AvroSchema())
		if errors.Is(err, ErrIncompatible) {
			refused = append(refused, fmt.Errorf("%s: schema %s is refused: %w", t.Subject(), t.Schema, err))
			continue
		}
		if err != nil {
			return err
		}
		if each != nil {
			each(t, id)
		}
	}
	return errors.Join(refused...)
}
