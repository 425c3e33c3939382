package verify

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"
)

// Row is a row of a table, in full.
type Row struct {
	Account, RecordKey, FCID, PersonID string
	Deleted                            bool
	Version                            int64
	KeyID                              string
	PayloadSchema, Sealed              []byte
	Recent                             []byte // in records_by_key only
}

func (r Row) String() string {
	return fmt.Sprintf("%s/%s fcid=%s person=%s deleted=%v version=%d key=%s schema=%x sealed=%x recent=%x",
		r.Account, r.RecordKey, r.FCID, r.PersonID, r.Deleted, r.Version, r.KeyID, r.PayloadSchema, sha256.Sum256(r.Sealed), r.Recent)
}

// version is one record on databus.records.
type version struct {
	account, recordKey, requestID string
	deleted                       bool
	keyID                         string
	schema, sealed                []byte
	offset                        int64
	appended                      time.Time
}

// known is an accepted request.
type known struct {
	id string
	at int64 // ms
}

// state is what the model knows of a record.
type state struct {
	row      Row
	recent   []known
	accepted int
	first    time.Time
	ever     map[string]int // accepted versions by request id
}

const (
	remembered = 16
	window     = 24 * time.Hour
)

// accept is the one rule for repeats: a request id that is among the record's last 16 accepted versions, and not older
// than 24 hours, changes nothing.
func (s *state) accept(v *version) bool {
	now := v.appended.UnixMilli()
	var young []known
	for _, k := range s.recent {
		if now-k.at <= window.Milliseconds() {
			young = append(young, k)
		}
	}
	for _, k := range young {
		if k.id == v.requestID {
			return false
		}
	}
	young = append(young, known{v.requestID, now})
	s.recent = young[max(0, len(young)-remembered):]
	return true
}

// fold makes a version the record's row, or says that it is a repeat.
func (s *state) fold(v *version, fcid, person string) bool {
	if s.first.IsZero() {
		s.first = v.appended
	}
	if !s.accept(v) {
		return false
	}
	s.accepted++
	if s.ever == nil {
		s.ever = map[string]int{}
	}
	s.ever[v.requestID]++
	s.row = Row{Account: v.account, RecordKey: v.recordKey, Deleted: v.deleted, Version: v.offset + 1}
	if !v.deleted {
		s.row.FCID, s.row.PersonID = fcid, person
		s.row.KeyID, s.row.PayloadSchema, s.row.Sealed = v.keyID, v.schema, v.sealed
	}
	for _, k := range s.recent {
		sum := sha256.Sum256([]byte(k.id))
		s.row.Recent = append(s.row.Recent, sum[:16]...)
		s.row.Recent = binary.BigEndian.AppendUint64(s.row.Recent, uint64(k.at))
	}
	return true
}

// The tables.
const (
	ByKey    = "records_by_key"
	ByPerson = "records_by_person"
	ByFCID   = "records_by_fcid"
)

// Tables lists them.
var Tables = []string{ByKey, ByPerson, ByFCID}

// in is the row as a table holds it, and the table's key; false where it holds none.
func (r Row) in(table string) (key string, row Row, ok bool) {
	switch {
	case table == ByKey:
		return r.Account + "/" + r.RecordKey, r, true
	case r.Deleted:
		return "", Row{}, false
	}
	r.Recent = nil
	if table == ByPerson {
		return r.Account + "/" + r.PersonID + "/" + r.RecordKey, r, true
	}
	return r.FCID + "/" + r.Account + "/" + r.RecordKey, r, true
}
