package seal

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
)

// kek is a key-encryption key. id is the data key's: what was wrapped under one id does not unwrap under another.
type kek interface {
	// wrap seals a data key.
	wrap(ctx context.Context, id string, key []byte) ([]byte, error)
	// unwrap opens it. ErrTampered: these bytes never open; any other error may pass.
	unwrap(ctx context.Context, id string, wrapped []byte) ([]byte, error)
}

// localKEK is the key-encryption key of a key file: AES-256-GCM, the data key's id as additional data.
type localKEK [32]byte

func (l *localKEK) wrap(_ context.Context, id string, key []byte) ([]byte, error) {
	aead, err := newGCM(l[:])
	if err != nil {
		return nil, err
	}
	return wrapGCM(aead, id, key), nil
}

func (l *localKEK) unwrap(_ context.Context, id string, wrapped []byte) ([]byte, error) {
	aead, err := newGCM(l[:])
	if err != nil {
		return nil, err
	}
	return unwrapGCM(aead, id, wrapped)
}

// aeadCipher is the part of cipher.AEAD that wrapping uses.
type aeadCipher interface {
	Seal(dst, nonce, plaintext, additionalData []byte) []byte
	Open(dst, nonce, ciphertext, additionalData []byte) ([]byte, error)
}

func wrapGCM(aead aeadCipher, additional string, key []byte) []byte {
	out := make([]byte, nonceSize, nonceSize+len(key)+tagSize)
	rand.Read(out) // never fails
	return aead.Seal(out, out, key, []byte(additional))
}

func unwrapGCM(aead aeadCipher, additional string, wrapped []byte) ([]byte, error) {
	if len(wrapped) != nonceSize+32+tagSize {
		return nil, ErrTampered
	}
	key, err := aead.Open(nil, wrapped[:nonceSize], wrapped[nonceSize:], []byte(additional))
	if err != nil {
		return nil, ErrTampered
	}
	return key, nil
}

// childOf is the additional data under which an account's key wraps a record's. It cannot be that of a payload, which
// begins with a length of at most 64.
func childOf(id string) string { return "databus/record-key/1\x00" + id }

func (d *DataKey) wrap(id string, key []byte) []byte { return wrapGCM(d.aead, childOf(id), key) }

func (d *DataKey) unwrap(id string, wrapped []byte) ([]byte, error) {
	return unwrapGCM(d.aead, childOf(id), wrapped)
}

var errNoSecrets = errors.New("this keyring was opened without secrets")

// wrap seals a data key with the key-encryption key that is in use.
func (k *Keys) wrap(ctx context.Context, id string, key []byte) ([]byte, error) {
	if k == nil {
		return nil, errNoSecrets
	}
	wrapped, err := k.keks[k.kekID].wrap(ctx, id, key)
	if err != nil {
		return nil, fmt.Errorf("wrapping key %s with %s: %w", id, k.kekID, err)
	}
	return wrapped, nil
}

func (k *Keys) unwrap(ctx context.Context, id, kekID string, wrapped []byte) ([]byte, error) {
	if k == nil {
		return nil, errNoSecrets
	}
	by := k.keks[kekID]
	if by == nil {
		return nil, fmt.Errorf("unwrapping key %s: %w", id, ErrWrongKEK)
	}
	key, err := by.unwrap(ctx, id, wrapped)
	if err == nil && len(key) != 32 {
		err = errors.New("it is not 32 bytes long")
	}
	if err != nil {
		return nil, fmt.Errorf("unwrapping key %s with %s: %w", id, kekID, err)
	}
	return key, nil
}
