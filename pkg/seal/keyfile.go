package seal

import (
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
)

// Keys are the secrets of a deployment. Every service that seals, opens or resolves has the same ones. They print as
// "[redacted]" whichever way they are printed.
type Keys struct {
	kekID    string // the key-encryption key that wraps; see UseAWSKMS
	keks     map[string]kek
	pepper   [32]byte
	hpkeID   string
	hpke     [32]byte // X25519 scalar
	identity [32]byte // identifier pepper, derived
}

// keyFile is the file's form: JSON, version 1, keys in hex.
type keyFile struct {
	Version int       `json:"version"`
	KEK     keyInFile `json:"key_encryption_key"`
	Pepper  string    `json:"pepper"`
	HPKE    keyInFile `json:"hpke_private_key"`
	Note    string    `json:"note,omitempty"`
	_       [0]func() // not comparable: nobody compares secrets by ==
}

type keyInFile struct {
	ID  string `json:"id"`
	Key string `json:"key"`
}

// Generate makes new secrets and writes them to path with mode 0600. It never replaces a file (fs.ErrExist): whoever
// loses the pepper loses every pseudonym, whoever loses the key-encryption key every record.
func Generate(path string) (*Keys, error) {
	random := func() string {
		var b [32]byte
		rand.Read(b[:]) // never fails
		return hex.EncodeToString(b[:])
	}
	file := keyFile{
		Version: 1,
		KEK:     keyInFile{ID: "kek-" + random()[:16], Key: random()},
		Pepper:  random(),
		HPKE:    keyInFile{ID: "hpke-" + random()[:16], Key: random()},
		Note:    "Secret. Without this file no record can be read and no record key be computed: keep a copy in a safe place.",
	}
	data, err := json.MarshalIndent(file, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("generating key file: %w", err)
	}
	if err := writeNew(path, append(data, '\n')); err != nil {
		return nil, fmt.Errorf("generating key file: %w", err)
	}
	return parse(data)
}

// writeNew publishes a file whole or not at all, and only where there is none.
func writeNew(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".keys-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Link(f.Name(), path)
}

// mounted is the mode of a secret that Kubernetes mounts for the group of a pod that doesn't run as root: the group is the
// only one to read it, and nobody may write it.
const mounted = 0o440

// Load reads a key file. A file that others than its owner may read is refused, unless it is a mounted secret.
func Load(path string) (*Keys, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("loading key file: %w; `databus init --keys-file FILE` makes one, once for the whole deployment", err)
	}
	if err != nil {
		return nil, fmt.Errorf("loading key file: %w", err)
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 && perm != mounted {
		return nil, fmt.Errorf("loading key file: mode of %s is %04o, which lets others read it; chmod 600", path, info.Mode().Perm())
	}
	if info.Size() > 1<<16 {
		return nil, fmt.Errorf("loading key file: %s has %d bytes, which no key file has", path, info.Size())
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("loading key file: %w", err)
	}
	keys, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("loading key file %s: %w", path, err)
	}
	return keys, nil
}

// parse never repeats the content in an error.
func parse(data []byte) (*Keys, error) {
	var file keyFile
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, errors.New("it is not a JSON key file")
	}
	if file.Version != 1 {
		return nil, fmt.Errorf("version %d is unknown", file.Version)
	}
	k := &Keys{kekID: file.KEK.ID, hpkeID: file.HPKE.ID}
	var local localKEK
	for _, part := range []struct {
		name string
		hex  string
		dst  *[32]byte
	}{{"key_encryption_key", file.KEK.Key, (*[32]byte)(&local)}, {"pepper", file.Pepper, &k.pepper}, {"hpke_private_key", file.HPKE.Key, &k.hpke}} {
		b, err := hex.DecodeString(part.hex)
		if err != nil || len(b) != 32 {
			return nil, fmt.Errorf("%s is not 32 bytes in hex", part.name)
		}
		copy(part.dst[:], b)
	}
	if k.kekID == "" || k.hpkeID == "" {
		return nil, errors.New("a key has no id")
	}
	if _, err := ecdh.X25519().NewPrivateKey(k.hpke[:]); err != nil {
		return nil, errors.New("hpke_private_key is no X25519 key")
	}
	k.keks = map[string]kek{k.kekID: &local}
	k.identity = k.derive("databus/identifier-pepper/1", "")
	return k, nil
}

// derive is HKDF-SHA256 over the pepper; label and account make the info.
func (k *Keys) derive(label, account string) [32]byte {
	b, err := hkdf.Key(sha256.New, k.pepper[:], nil, label+"\x00"+account, 32)
	if err != nil {
		panic(fmt.Sprintf("deriving a key: %v", err)) // only for lengths that are not ours
	}
	return [32]byte(b)
}

// AccountKey is the HMAC key of an account's record keys.
func (k *Keys) AccountKey(account string) [32]byte { return k.derive("databus/account-key/1", account) }

// AccountIDKey is the HMAC key of an account's PersonIDs.
func (k *Keys) AccountIDKey(account string) [32]byte {
	return k.derive("databus/account-id-key/1", account)
}

// IdentifierPepper is the HMAC key of identifier hashes. It is one for all accounts, so that their records meet in the
// graph.
func (k *Keys) IdentifierPepper() [32]byte { return k.identity }

// KEKID names the key-encryption key that wraps new data keys.
func (k *Keys) KEKID() string { return k.kekID }

// PublicKey is the key to which producers seal requests.
func (k *Keys) PublicKey() *PublicKey {
	private, err := ecdh.X25519().NewPrivateKey(k.hpke[:])
	if err != nil {
		panic(fmt.Sprintf("deriving the public key: %v", err)) // checked when the keys were parsed
	}
	return &PublicKey{id: k.hpkeID, key: [32]byte(private.PublicKey().Bytes())}
}

const redacted = "[redacted]"

// The methods have value receivers so that a dereferenced copy is redacted too.

func (k Keys) String() string               { return redacted }
func (k Keys) GoString() string             { return redacted }
func (k Keys) Format(s fmt.State, _ rune)   { _, _ = s.Write([]byte(redacted)) }
func (k Keys) LogValue() slog.Value         { return slog.StringValue(redacted) }
func (k Keys) MarshalJSON() ([]byte, error) { return json.Marshal(redacted) }
func (k Keys) MarshalText() ([]byte, error) { return []byte(redacted), nil }
