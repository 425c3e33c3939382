package ingest

import (
	"errors"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/identity"
	"databus/pkg/seal"
	"databus/pkg/stream"
	"databus/schemas"
	"databus/schemas/event"
)

// requestLoop turns identity.requests into databus.records and identity.resolutions, exactly once. A request that this
// key pair cannot open, or that holds no record, is a dead letter; one that breaks a rule of the record model is
// answered with REJECTED. Without a database, its graph or the account's key the partition waits.
func (s *Service) requestLoop() loop {
	return loop{handlers: func(int32) stream.Handlers {
		return stream.Handlers{Inputs: map[string]func(*stream.Tx, *kgo.Record) error{schemas.IdentityRequests: s.onRequest}}
	}}
}

func (s *Service) onRequest(tx *stream.Tx, rec *kgo.Record) error {
	ctx := tx.Context()
	var req event.ResolveRequest
	if err := s.requests.Decode(ctx, rec.Value, &req); err != nil {
		return err
	}
	plain, err := s.opener.Open(req.RecipientKeyID, req.Account, req.RequestID, req.Sealed)
	if err != nil {
		return stream.Poison(err.Error())
	}
	var customer event.CustomerRecord
	if err := s.customers.Decode(plain, &customer); err != nil {
		return stream.Poison("the sealed bytes are no CustomerRecord")
	}
	answer := event.Resolution{RequestID: req.RequestID, Account: req.Account}
	now, err := s.resolving(ctx)
	if err != nil {
		return stream.Wait(err)
	}
	res, err := s.resolver.Resolve(ctx, now.graph, &identity.Request{Account: req.Account, RequestID: req.RequestID, Kind: req.Kind, Record: customer})
	var invalid *identity.Invalid
	switch {
	case errors.As(err, &invalid):
		answer.Outcome, answer.Problem = event.OutcomeRejected, invalid.Error()
	case errors.Is(err, seal.ErrRevoked):
		answer.Outcome, answer.Problem = event.OutcomeRejected, "the account's data key is revoked"
	case err != nil:
		return stream.Wait(err)
	default:
		value, err := s.records.Encode(ctx, &res.Record)
		if err != nil {
			return err
		}
		tx.Emit(schemas.DatabusRecords, []byte(res.Key()), value)
		answer.RecordKey, answer.GraphVersion, answer.Outcome = res.Record.RecordKey, now.db.GraphVersion, event.OutcomeDeleted
		if res.FCID != "" {
			answer.Fcid, answer.PersonID, answer.Outcome = &res.FCID, &res.PersonID, event.OutcomeResolved
		}
	}
	value, err := s.resolutions.Encode(ctx, &answer)
	if err != nil {
		return err
	}
	tx.Emit(schemas.IdentityResolutions, []byte(req.RequestID), value)
	s.metrics.requests.WithLabelValues(strings.ToLower(string(answer.Outcome))).Inc()
	return nil
}
