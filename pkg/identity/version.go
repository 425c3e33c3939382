package identity

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"databus/pkg/graph"
	"databus/pkg/seal"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

var (
	// ErrInvalidRecord: a record on databus.records breaks the model.
	ErrInvalidRecord = errors.New("record is not valid")
	// ErrPayloadSchema: a payload's schema is not known to this program. It may be newer; nothing is dead before
	// everybody is up to date.
	ErrPayloadSchema = errors.New("payload's schema is unknown; upgrade this service")
)

// IsDead says that a record can never be opened: its key is revoked or never existed, its bytes were changed, or it
// breaks the model. Such a record is counted and skipped by every reader alike, but for one that was shredded: that one
// is a deleted record in every database, see Resolver.Row. Other errors may pass: stop and retry.
func IsDead(err error) bool {
	for _, dead := range []error{ErrInvalidRecord, seal.ErrRevoked, seal.ErrUnknownKey, seal.ErrTampered, graph.ErrIdentifier} {
		if errors.Is(err, dead) {
			return true
		}
	}
	return codec.IsPoison(err)
}

// Input is a record at its place in databus.records.
type Input struct {
	Record *event.DatabusRecord
	// Epoch of the topic and Offset within the record's partition give the version.
	Epoch  int32
	Offset int64
	// AppendTime is the broker's timestamp. It decides how long a request id counts as recent, and nothing else.
	AppendTime time.Time
}

// Validate checks everything but the payload; the error is ErrInvalidRecord.
func (in *Input) Validate() error {
	rec := in.Record
	switch {
	case !schemas.ValidAccount(rec.Account):
		return fmt.Errorf("%w: account", ErrInvalidRecord)
	case !isHex32(rec.RecordKey):
		return fmt.Errorf("%w: record key", ErrInvalidRecord)
	case rec.RequestID == "" || len(rec.RequestID) > 4*MaxRequestID:
		return fmt.Errorf("%w: request id", ErrInvalidRecord)
	case rec.Kind == event.RecordKindDelete:
		return nil
	case rec.Kind != event.RecordKindUpsert:
		return fmt.Errorf("%w: kind", ErrInvalidRecord)
	case rec.KeyID == "" || len(rec.PayloadSchema) == 0 || len(rec.Sealed) < seal.Overhead:
		return fmt.Errorf("%w: payload is missing", ErrInvalidRecord)
	}
	return nil
}

// payloadBeforeComposites is the fingerprint of the payload's schema before the kind of identifier COMPOSITE was appended, which
// the present schema reads as it is.
const payloadBeforeComposites = "\x48\x0d\x9d\x2a\x6d\x8f\x5e\x64"

// Payload opens what a record or a Row's Record seals.
func (r *Resolver) Payload(ctx context.Context, rec *event.DatabusRecord) (*event.RecordPayload, error) {
	if !bytes.Equal(rec.PayloadSchema, r.payload.Fingerprint()) && string(rec.PayloadSchema) != payloadBeforeComposites {
		return nil, fmt.Errorf("opening a record: %w", ErrPayloadSchema)
	}
	plain, err := r.keyring.Open(ctx, nil, rec)
	if err != nil {
		return nil, fmt.Errorf("opening a record: %w", err)
	}
	var p event.RecordPayload
	if err := r.payload.Decode(plain, &p); err != nil {
		return nil, fmt.Errorf("opening a record: %w", err)
	}
	return &p, nil
}

// identifiers of an upsert.
func (r *Resolver) identifiers(ctx context.Context, rec *event.DatabusRecord) ([]graph.Identifier, error) {
	p, err := r.Payload(ctx, rec)
	if err != nil {
		return nil, err
	}
	ids, err := graph.FromPayload(p.Identifiers)
	if err != nil {
		return nil, fmt.Errorf("opening a record: %w", err)
	}
	return ids, nil
}

// Row is the one way from a version of a record to its row under a graph version. Recent, which depends on the
// versions before, is left out. A version that was shredded is a deleted one: so revoking a key changes what a row holds, and
// never which version it is or which request counts as a repeat, and databases that were filled before and after agree.
func (r *Resolver) Row(ctx context.Context, g *graph.Graph, in *Input) (Row, error) {
	if err := in.Validate(); err != nil {
		return Row{}, err
	}
	version, err := Version(in.Epoch, in.Offset)
	if err != nil {
		return Row{}, err
	}
	rec := in.Record
	row := Row{Account: rec.Account, RecordKey: rec.RecordKey, Version: version}
	if rec.Kind == event.RecordKindDelete {
		row.Deleted = true
		return row, nil
	}
	ids, err := r.identifiers(ctx, rec)
	if errors.Is(err, seal.ErrRevoked) {
		row.Deleted, row.Shredded = true, true
		return row, nil
	}
	if err != nil {
		return Row{}, err
	}
	fcid, ok := g.Resolve(ids)
	if !ok {
		return Row{}, fmt.Errorf("%w: it has no identifier of its own", ErrInvalidRecord)
	}
	row.FCID, row.PersonID = fcid.String(), r.PersonID(rec.Account, fcid)
	row.KeyID, row.PayloadSchema, row.Sealed = rec.KeyID, rec.PayloadSchema, rec.Sealed
	return row, nil
}

// Revoked says whether a data key is revoked; one that is not known is not.
func (r *Resolver) Revoked(ctx context.Context, keyID string) (bool, error) {
	revoked, err := r.keyring.Revoked(ctx, keyID)
	if errors.Is(err, seal.ErrUnknownKey) {
		return false, nil
	}
	return revoked, err
}

// Observation is the evidence in a version of a record: its identifiers belong together. The evidence id is the
// record's key, so a newer version replaces an older one's, and a delete withdraws it, as does a shredded version. firstSeen is the append time of
// the record's first version, or of this one where that is not known. The RECORD identifier is left out, because no
// other record can have it.
func (r *Resolver) Observation(ctx context.Context, in *Input, firstSeen time.Time) (*event.Observation, error) {
	if err := in.Validate(); err != nil {
		return nil, err
	}
	rec := in.Record
	o := &event.Observation{
		EvidenceID: rec.Account + "/" + rec.RecordKey, Source: rec.Account, Relation: event.RelationWithdrawn,
		Identifiers: []event.EvidenceIdentifier{}, Weight: 1, FirstSeen: firstSeen, ObservedAt: in.AppendTime,
	}
	if rec.Kind == event.RecordKindDelete {
		return o, nil
	}
	ids, err := r.identifiers(ctx, rec)
	if errors.Is(err, seal.ErrRevoked) {
		return o, nil
	}
	if err != nil {
		return nil, err
	}
	for len(ids) > 0 && ids[len(ids)-1].Kind == graph.Record {
		ids = ids[:len(ids)-1]
	}
	o.Relation, o.Identifiers = event.RelationTogether, graph.ToEvidence(ids)
	return o, nil
}
