package ingest

import (
	"context"
	"time"

	"databus/pkg/identity"
	"databus/schemas/event"
)

// sweepEvery is how often a database looks for revocations to carry out.
const sweepEvery = time.Second

// keepSweeping carries out revocations in a database while its applier runs here. Of several instances the one that
// applies partition 0 does it; two that do it at once do no harm.
func (s *Service) keepSweeping(ctx context.Context, db event.DatabaseVersion, standing *standing) {
	if err := s.keyring.Ready(ctx); err != nil {
		return
	}
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	done := int64(-1)
	for {
		if at := s.keyring.Revocations(); at != done && standing.owns(0) {
			whole, err := s.sweep(ctx, db)
			switch {
			case ctx.Err() != nil:
				return
			case err != nil:
				s.env.Log.Warn("sweeping records of revoked keys, trying again", "database", db.Version, "error", err)
			case whole:
				done = at
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// sweep is one pass; whole says that nothing is left to do.
func (s *Service) sweep(ctx context.Context, db event.DatabaseVersion) (whole bool, err error) {
	pending, positions, whole := s.keyring.Unswept(db.Version)
	if len(pending) == 0 {
		return whole, nil
	}
	store, err := s.stores.Keyspace(db.Keyspace)
	if err != nil {
		return false, err
	}
	records, err := identity.Sweep(ctx, store, s.resolver, pending)
	s.metrics.shredded.WithLabelValues(db.Version).Add(float64(records))
	if err != nil {
		return false, err
	}
	s.env.Log.Info("revoked keys' records are gone", "database", db.Version, "keys", len(pending), "records", records)
	return whole, s.keyring.Swept(ctx, db.Version, positions)
}
