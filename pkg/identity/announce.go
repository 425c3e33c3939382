package identity

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

// Announce says on databus.databases what has become of a database version and returns when that is acknowledged.
// ChangedAt is set here. The newest event wins: look at the version's state (Databases.CaughtUp) right before. The
// producer must not be transactional.
func Announce(ctx context.Context, producer *kgo.Client, c *codec.Codec, v event.DatabaseVersion) error {
	v.ChangedAt = time.Now().UTC().Truncate(time.Microsecond)
	if v.Frontier == nil {
		v.Frontier = []event.FrontierPosition{}
	}
	value, err := codec.For[event.DatabaseVersion](c, schemas.DatabusDatabases).Encode(ctx, &v)
	if err == nil {
		err = producer.ProduceSync(ctx, &kgo.Record{Topic: schemas.DatabusDatabases, Key: []byte(v.Version), Value: value}).FirstErr()
	}
	if err != nil {
		return fmt.Errorf("announcing database version %s as %s: %w", v.Version, v.State, err)
	}
	return nil
}
