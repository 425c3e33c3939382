// Package seal keeps records unreadable without a key: data keys per account or per record, sealed record payloads,
// sealed requests, the secrets from which pseudonyms are derived, and shredding, which makes a key and with it everything
// it sealed disappear.
//
// Promise: what Seal returns opens only with the same data key, account, record key and schema fingerprint; any
// changed, swapped or cut byte is ErrTampered. A data key exists outside of this process only wrapped. Instances that
// create an account's first key at the same time end up sealing with the same one. Rotated keys open what they sealed.
// Once a revocation is acknowledged by keys.events, every keyring refuses the key within Lease, also one that cannot
// reach Kafka: a keyring uses no key without having read keys.events to its end less than Lease ago.
//
//	key file or AWS KMS --- key-encryption key ---> wraps accounts' data keys, which travel on keys.events
//	         |                          \             \-- wrap records' own data keys, for accounts that have them
//	         |                           \-- AWS KMS's also wraps what the key file holds
//	key file +-- pepper --- HKDF ------> account key (record keys), account id key (PersonIDs), identifier pepper
//	         +-- HPKE private key -----> opens identity.requests
//
// Concurrency: Keys, Keyring and DataKey may be used by any number of goroutines.
//
// Failure: a missing registry or broker is waited for; after Lease without them nothing is sealed or opened (ErrStale). A
// key event that can never be decoded is logged and skipped: what it would have opened is ErrUnknownKey. A
// key-encryption key that this process does not have is ErrWrongKEK, and one that does not answer ErrKEKUnavailable:
// both say something about the deployment and nothing about the record.
//
// Memory: see Keyring.
//
// Files: keyfile.go, kek.go, awskms.go the secrets; payload.go, request.go what is sealed with them; keyring.go the keys of
// keys.events, choose.go which one seals, cache.go the unwrapped ones, lease.go how long they may be used, shred.go and
// receipt.go how they end, sweep.go what databases have done about it, shredded.go who was shredded, for those who hold no
// keys.
package seal

import (
	"errors"
	"time"
)

// Lease is how long a keyring uses keys after it has last read keys.events to its end, and so the longest time for which
// a revoked key is used anywhere.
const Lease = 60 * time.Second

var (
	// ErrTampered: the bytes do not open with this key, account, record key and fingerprint.
	ErrTampered = errors.New("sealed data does not open: it was changed or belongs elsewhere")
	// ErrRevoked: the data key was revoked; what it sealed is gone for good, and nothing may be sealed for an account,
	// or a record, that was shredded.
	ErrRevoked = errors.New("data key is revoked")
	// ErrUnknownKey: no key event up to now names this data key.
	ErrUnknownKey = errors.New("data key is unknown")
	// ErrNoOwnKey: a record has no data key of its own, so it cannot be shredded without its account.
	ErrNoOwnKey = errors.New("record has no data key of its own")
	// ErrStale: keys.events could not be read to its end for longer than Lease. It passes with the outage.
	ErrStale = errors.New("data keys may be out of date: keys.events could not be read")
	// ErrWrongKEK: the data key is wrapped by another key-encryption key than this process has.
	ErrWrongKEK = errors.New("data key is wrapped by another key-encryption key; check that every service has the same key file and KMS key")
	// ErrKEKUnavailable: the key-encryption key's service does not answer, or refuses this process. It passes.
	ErrKEKUnavailable = errors.New("key-encryption key cannot be used now; check the network, the credentials' permissions and the state of the KMS key")
	// ErrWrongRecipient: a request is sealed to another public key.
	ErrWrongRecipient = errors.New("request is sealed to another public key; give producers ingest's current one")
)
