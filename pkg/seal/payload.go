package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"log/slog"
	"sync"
)

const (
	nonceSize = 12
	tagSize   = 16
	// Overhead is by how many bytes sealed data is longer than what it seals.
	Overhead = nonceSize + tagSize
)

// DataKey is an unwrapped data key of one account or one of its records, ready to seal and to open.
//
// Nonces are random, so one key must not seal more than 2^32 records (NIST SP 800-38D); rotate it before.
type DataKey struct {
	id      string
	account string
	record  string // record key, where it is one record's
	aead    cipher.AEAD
}

func newDataKey(id, account, record string, key []byte) (*DataKey, error) {
	aead, err := newGCM(key)
	if err != nil {
		return nil, err
	}
	return &DataKey{id: id, account: account, record: record, aead: aead}, nil
}

func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("setting up AES: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("setting up GCM: %w", err)
	}
	return aead, nil
}

// ID of the key, as records carry it: account and 16 hex digits, with a slash between.
func (d *DataKey) ID() string { return d.id }

// LogValue shows the id alone.
func (d *DataKey) LogValue() slog.Value { return slog.StringValue(d.id) }

// String is the id alone.
func (d *DataKey) String() string { return d.id }

// Seal appends nonce, ciphertext and tag of a payload to dst. The payload belongs to the key's account.
func (d *DataKey) Seal(dst []byte, recordKey string, fingerprint, payload []byte) []byte {
	var nonce [nonceSize]byte
	rand.Read(nonce[:]) // never fails
	start := len(dst)
	dst = append(dst, nonce[:]...)
	ad := additionalData(d.account, recordKey, fingerprint)
	defer scratch.Put(ad)
	return d.aead.Seal(dst, dst[start:start+nonceSize], payload, *ad)
}

// Open appends the payload to dst, which must not overlap sealed. It allocates nothing when dst has room.
func (d *DataKey) Open(dst []byte, recordKey string, fingerprint, sealed []byte) ([]byte, error) {
	if len(sealed) < Overhead {
		return dst, ErrTampered
	}
	ad := additionalData(d.account, recordKey, fingerprint)
	out, err := d.aead.Open(dst, sealed[:nonceSize], sealed[nonceSize:], *ad)
	scratch.Put(ad)
	if err != nil {
		return dst, ErrTampered
	}
	return out, nil
}

// scratch holds buffers for additional data: one built on the stack would escape through the cipher's interface and cost
// an allocation for every record.
var scratch = sync.Pool{New: func() any { b := make([]byte, 0, 256); return &b }}

// additionalData is each part behind its length (4 bytes, big endian), so that no two triples give the same bytes.
func additionalData(account, recordKey string, fingerprint []byte) *[]byte {
	p := scratch.Get().(*[]byte)
	b := (*p)[:0]
	b = binary.BigEndian.AppendUint32(b, uint32(len(account)))
	b = append(b, account...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(recordKey)))
	b = append(b, recordKey...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(fingerprint)))
	b = append(b, fingerprint...)
	*p = b
	return p
}
