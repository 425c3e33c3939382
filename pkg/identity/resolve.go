package identity

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"databus/pkg/graph"
	"databus/pkg/seal"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

// Limits of a request.
const (
	MaxRequestID   = 128     // characters
	MaxRecordID    = 256     // characters
	MaxFields      = 256     // fields of a record
	MaxFieldName   = 64      // bytes
	MaxRecordBytes = 512_000 // RecordID, names and values together
)

// Invalid is a request that can never be accepted, and the part that is to blame. It holds no value of the request.
type Invalid struct{ Field, Reason string }

func (e *Invalid) Error() string { return "request is not valid: " + e.Field + " " + e.Reason }

// Keyring is what a Resolver needs of seal.Keyring.
type Keyring interface {
	Sealer(ctx context.Context, account, recordKey string) (*seal.DataKey, error)
	Open(ctx context.Context, dst []byte, rec *event.DatabusRecord) ([]byte, error)
	Revoked(ctx context.Context, keyID string) (bool, error)
}

// Resolver goes both ways between customers' records and what the Databus holds of them.
type Resolver struct {
	keys       *seal.Keys
	keyring    Keyring
	normaliser *graph.Normaliser
	payload    *codec.Embedded[event.RecordPayload]

	mu      sync.RWMutex
	derived map[string]accountKeys // bounded by maxDerived
}

type accountKeys struct{ record, id [32]byte }

const maxDerived = 10_000

// NewResolver returns a resolver. The region is that of phone numbers without a country code, see graph.NewNormaliser.
func NewResolver(keys *seal.Keys, keyring Keyring, region string) (*Resolver, error) {
	n, err := graph.NewNormaliser(keys.IdentifierPepper(), region)
	if err != nil {
		return nil, err
	}
	return &Resolver{
		keys: keys, keyring: keyring, normaliser: n, derived: map[string]accountKeys{},
		payload: codec.ForEmbedded[event.RecordPayload]("record_payload"),
	}, nil
}

func (r *Resolver) account(account string) accountKeys {
	r.mu.RLock()
	k, ok := r.derived[account]
	r.mu.RUnlock()
	if ok {
		return k
	}
	k = accountKeys{record: r.keys.AccountKey(account), id: r.keys.AccountIDKey(account)}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.derived) >= maxDerived {
		clear(r.derived)
	}
	r.derived[account] = k
	return k
}

// RecordKey is the key of an account's record.
func (r *Resolver) RecordKey(account, recordID string) string {
	return RecordKey(r.account(account).record, recordID)
}

// PersonID is an account's id of a person.
func (r *Resolver) PersonID(account string, fcid graph.FCID) string {
	return PersonID(r.account(account).id, fcid).String()
}

// Request is a customer's wish to set or remove a record.
type Request struct {
	Account, RequestID string
	Kind               event.RequestKind
	// Record holds the RecordID, and for an upsert the fields.
	Record event.CustomerRecord
}

// Resolution is a request resolved under one graph version.
type Resolution struct {
	// Record is what goes to databus.records under Key.
	Record event.DatabusRecord
	// FCID and PersonID are empty for a delete.
	FCID, PersonID string
	// Problems lists fields that should identify somebody and do not.
	Problems []graph.Problem
	// Identifiers is how many identifiers were found, the record's own aside.
	Identifiers int
}

// Key is the record's key in topics.
func (r *Resolution) Key() string { return r.Record.Account + "/" + r.Record.RecordKey }

// Validate checks a request; the error is *Invalid.
func (q *Request) Validate() error {
	switch {
	case !schemas.ValidAccount(q.Account):
		return &Invalid{"account", "is not 1 to 64 characters of [A-Za-z0-9._-]"}
	case !printable(q.RequestID, MaxRequestID):
		return &Invalid{"request_id", fmt.Sprintf("is not 1 to %d characters without control characters", MaxRequestID)}
	case !printable(q.Record.RecordID, MaxRecordID):
		return &Invalid{"record_id", fmt.Sprintf("is not 1 to %d characters without control characters", MaxRecordID)}
	case q.Kind == event.RequestKindDelete:
		return nil
	case q.Kind != event.RequestKindUpsert:
		return &Invalid{"kind", "is neither UPSERT nor DELETE"}
	case len(q.Record.Fields) > MaxFields:
		return &Invalid{"fields", fmt.Sprintf("are more than %d", MaxFields)}
	}
	size := len(q.Record.RecordID)
	for name, value := range q.Record.Fields {
		size += len(name) + len(value)
		if name == "" || len(name) > MaxFieldName || strings.ContainsFunc(name, func(c rune) bool {
			return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-' || c == '.')
		}) {
			return &Invalid{"fields", fmt.Sprintf("has a name that is not 1 to %d characters of [A-Za-z0-9._-]", MaxFieldName)}
		}
		if !utf8.ValidString(value) {
			return &Invalid{name, "is not UTF-8"}
		}
	}
	if size > MaxRecordBytes {
		return &Invalid{"fields", fmt.Sprintf("have %d bytes, at most %d", size, MaxRecordBytes)}
	}
	return nil
}

func printable(s string, limit int) bool {
	return s != "" && utf8.ValidString(s) && utf8.RuneCountInString(s) <= limit && !strings.ContainsFunc(s, unicode.IsControl)
}

// Resolve is the one way from a request to a version of a record: it validates, derives the record key, normalises and
// hashes identifiers, finds the person in the graph and seals. It is a function of its arguments and the keys, the
// nonce of the seal aside. Errors: *Invalid; seal.ErrRevoked where the account or the record was shredded; what keeps keys from being
// known.
func (r *Resolver) Resolve(ctx context.Context, g *graph.Graph, q *Request) (*Resolution, error) {
	if err := q.Validate(); err != nil {
		return nil, err
	}
	res := &Resolution{Record: event.DatabusRecord{
		Account: q.Account, RecordKey: r.RecordKey(q.Account, q.Record.RecordID), Kind: event.RecordKindDelete, RequestID: q.RequestID,
	}}
	if q.Kind == event.RequestKindDelete {
		return res, nil
	}
	rec := &res.Record
	rec.Kind = event.RecordKindUpsert
	ids, problems := r.normaliser.ForRecord(q.Account, rec.RecordKey, q.Record.Fields)
	res.Problems, res.Identifiers = problems, len(ids)-1
	fcid, ok := g.Resolve(ids)
	if !ok {
		return nil, fmt.Errorf("resolving a record: graph says that even its own identifier is shared")
	}
	res.FCID, res.PersonID = fcid.String(), r.PersonID(q.Account, fcid)

	fields := q.Record.Fields
	if fields == nil {
		fields = map[string]string{}
	}
	payload, err := r.payload.Append(nil, &event.RecordPayload{RecordID: q.Record.RecordID, Fields: fields, Identifiers: graph.ToPayload(ids)})
	if err != nil {
		return nil, fmt.Errorf("resolving a record: %w", err)
	}
	key, err := r.keyring.Sealer(ctx, q.Account, rec.RecordKey)
	if err != nil {
		return nil, fmt.Errorf("resolving a record: %w", err)
	}
	rec.KeyID, rec.PayloadSchema = key.ID(), r.payload.Fingerprint()
	rec.Sealed = key.Seal(make([]byte, 0, len(payload)+seal.Overhead), rec.RecordKey, rec.PayloadSchema, payload)
	return res, nil
}
