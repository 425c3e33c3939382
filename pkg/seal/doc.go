// Package seal keeps records unreadable without a key: data keys per account, sealed record payloads, sealed requests,
// and the secrets from which pseudonyms are derived.
//
// Promise: what Seal returns opens only with the same data key, account, record key and schema fingerprint; any
// changed, swapped or cut byte is ErrTampered. A data key exists outside of this process only wrapped by the
// key-encryption key. Instances that create an account's first key at the same time end up sealing with the same one.
//
//	key file --- key-encryption key ---> wraps data keys, which travel on keys.events
//	         +-- pepper --- HKDF ------> account key (record keys), account id key (PersonIDs), identifier pepper
//	         +-- HPKE private key -----> opens identity.requests
//
// Concurrency: Keys, Keyring and DataKey may be used by any number of goroutines.
//
// Failure: a missing registry or broker is waited for. A key event that can never be decoded is logged and skipped: what
// it would have opened is ErrUnknownKey. A key-encryption key that this process does not have is ErrWrongKEK, which says
// something about the deployment and nothing about the record.
package seal

import "errors"

var (
	// ErrTampered: the bytes do not open with this key, account, record key and fingerprint.
	ErrTampered = errors.New("sealed data does not open: it was changed or belongs elsewhere")
	// ErrRevoked: the data key was revoked; what it sealed is gone for good, and nothing may be sealed for an account
	// whose keys are all revoked.
	ErrRevoked = errors.New("data key is revoked")
	// ErrUnknownKey: no key event up to now names this data key.
	ErrUnknownKey = errors.New("data key is unknown")
	// ErrWrongKEK: the data key is wrapped by another key-encryption key than this process has.
	ErrWrongKEK = errors.New("data key is wrapped by another key-encryption key; check that every service has the same key file")
	// ErrWrongRecipient: a request is sealed to another public key.
	ErrWrongRecipient = errors.New("request is sealed to another public key; give producers ingest's current one")
)
