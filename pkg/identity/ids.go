package identity

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/google/uuid"

	"databus/pkg/graph"
)

// RecordKey is the pseudonym of a RecordID in topics and tables: hex of the first 16 bytes of HMAC-SHA256(account key,
// RecordID).
func RecordKey(accountKey [32]byte, recordID string) string {
	mac := hmac.New(sha256.New, accountKey[:])
	mac.Write([]byte(recordID))
	return hex.EncodeToString(mac.Sum(nil)[:16])
}

// PersonID is an account's own id of a person: a UUIDv8 made of HMAC-SHA256(account id key, FCID). Two accounts cannot
// match their persons by it.
func PersonID(accountIDKey [32]byte, fcid graph.FCID) uuid.UUID {
	mac := hmac.New(sha256.New, accountIDKey[:])
	mac.Write(fcid[:])
	id := uuid.UUID(mac.Sum(nil)[:16])
	id[6] = id[6]&0x0f | 0x80 // version 8: custom
	id[8] = id[8]&0x3f | 0x80 // RFC 9562 variant
	return id
}

const (
	// MaxEpoch and MaxOffset keep versions positive and ordered.
	MaxEpoch  = 1<<15 - 1
	MaxOffset = 1<<48 - 2
)

// Version orders the versions of a record and is the write timestamp of its row: the epoch of databus.records in the
// upper 16 bits, the offset plus one in the lower 48. It is always above zero.
func Version(epoch int32, offset int64) (int64, error) {
	if epoch < 0 || epoch > MaxEpoch || offset < 0 || offset > MaxOffset {
		return 0, fmt.Errorf("version of a record: epoch %d and offset %d are out of range", epoch, offset)
	}
	return int64(epoch)<<48 | (offset + 1), nil
}

// Offset is the inverse of Version.
func Offset(version int64) (epoch int32, offset int64) {
	return int32(version >> 48), version&(1<<48-1) - 1
}
