package identity

import (
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"databus/schemas"
	"databus/schemas/event"
)

// Row is a record's newest version in a database.
type Row struct {
	Account, RecordKey string
	// Deleted marks a row that only keeps the version of a removed record: it has neither person nor payload.
	Deleted bool
	// FCID is 32 hex digits, PersonID a UUID.
	FCID, PersonID string
	// Version is that of Version(epoch, offset).
	Version int64
	// KeyID, PayloadSchema and Sealed are those of the record on databus.records, byte for byte.
	KeyID                 string
	PayloadSchema, Sealed []byte
	// Recent is kept in records_by_key only.
	Recent Recent

	// Shredded says of a row that was just made that it is Deleted because its key is revoked. It is not stored: in a
	// database a shredded record is a deleted one.
	Shredded bool
}

// Marker is what is left of the row when its record is deleted or shredded: its version, and the request ids before it.
func (r *Row) Marker() Row {
	return Row{Account: r.Account, RecordKey: r.RecordKey, Deleted: true, Version: r.Version, Recent: r.Recent}
}

// Place is where a row stands in the tables by person and by FCID. The zero Place is nowhere.
type Place struct{ FCID, PersonID string }

// Place of the row; nowhere for a deleted one.
func (r *Row) Place() Place { return Place{FCID: r.FCID, PersonID: r.PersonID} }

// Record is the part of the row that Resolver.Payload opens.
func (r *Row) Record() *event.DatabusRecord {
	return &event.DatabusRecord{Account: r.Account, RecordKey: r.RecordKey, Kind: event.RecordKindUpsert, KeyID: r.KeyID, PayloadSchema: r.PayloadSchema, Sealed: r.Sealed}
}

// ErrBadRow: a row breaks the model. It is a defect, not an input error: rows are checked before they are written and after
// they are read.
var ErrBadRow = errors.New("row breaks the record model")

// check holds in every table; Recent is not looked at.
func (r *Row) check() error {
	bad := func(what string) error { return fmt.Errorf("%w: %s (version %d)", ErrBadRow, what, r.Version) }
	switch {
	case !schemas.ValidAccount(r.Account):
		return bad("account")
	case !isHex32(r.RecordKey):
		return bad("record key")
	case r.Version <= 0:
		return bad("version")
	case r.Deleted:
		if r.FCID != "" || r.PersonID != "" || r.KeyID != "" || len(r.PayloadSchema) != 0 || len(r.Sealed) != 0 {
			return bad("a deleted record has a person or a payload")
		}
	case !isHex32(r.FCID):
		return bad("FCID")
	case !isUUID(r.PersonID):
		return bad("PersonID")
	case r.KeyID == "" || len(r.PayloadSchema) == 0 || len(r.Sealed) == 0:
		return bad("payload is missing")
	}
	return nil
}

func isHex32(s string) bool {
	if len(s) != 32 {
		return false
	}
	for _, c := range []byte(s) {
		if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'f') {
			return false
		}
	}
	return true
}

func isUUID(s string) bool {
	id, err := uuid.Parse(s)
	return err == nil && id.String() == s
}

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		return nil
	}
	return b
}
