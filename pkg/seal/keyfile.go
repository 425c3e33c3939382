package seal

import (
	"cmp"
	"context"
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
	"strings"
)

// Keys are the secrets of a deployment. Every service that seals, opens or resolves has the same ones. They print as
// "[redacted]" whichever way they are printed.
type Keys struct {
	kekID     string // the key-encryption key that wraps
	keks      map[string]kek
	pepper    [32]byte
	hpkeID    string
	hpke      [32]byte // X25519 scalar
	identity  [32]byte // identifier pepper, derived
	wrappedBy string   // key-encryption key of the file itself; "" for a plain one
}

// keyFile is the file's form: JSON, keys in hex. In version 1 they are plain. In version 2 each is wrapped by the key-encryption
// key WrappedBy, under a name of its own; a file that was made wrapped has no key-encryption key itself.
type keyFile struct {
	Version   int        `json:"version"`
	WrappedBy string     `json:"wrapped_by,omitempty"`
	KEK       *keyInFile `json:"key_encryption_key,omitempty"`
	Pepper    string     `json:"pepper"`
	HPKE      keyInFile  `json:"hpke_private_key"`
	Note      string     `json:"note,omitempty"`
	_         [0]func()  // not comparable: nobody compares secrets by ==
}

type keyInFile struct {
	ID  string `json:"id"`
	Key string `json:"key"`
}

const (
	plainNote   = "Secret. Without this file no record can be read and no record key be computed: keep a copy in a safe place."
	wrappedNote = "Opens only with the key wrapped_by. Without both no record can be read and no record key be computed: keep a copy in a safe place."
)

func random() (b [32]byte) {
	rand.Read(b[:]) // never fails
	return b
}

func randomID(kind string) string { b := random(); return kind + hex.EncodeToString(b[:8]) }

// Generate makes new secrets and writes them to path with mode 0600, in plain. It never replaces a file (fs.ErrExist):
// whoever loses the pepper loses every pseudonym, whoever loses the key-encryption key every record.
func Generate(path string) (*Keys, error) {
	local := localKEK(random())
	k := &Keys{kekID: randomID("kek-"), hpkeID: randomID("hpke-"), pepper: random(), hpke: random()}
	k.keks = map[string]kek{k.kekID: &local}
	if err := k.create(context.Background(), path, ""); err != nil {
		return nil, fmt.Errorf("generating key file: %w", err)
	}
	return k.ready()
}

// GenerateWrapped is Generate, but the secrets are wrapped by a key of AWS KMS and never written in plain. Errors also:
// ErrKEKUnavailable.
func GenerateWrapped(ctx context.Context, path string, a AWSKMS) (*Keys, error) {
	k := &Keys{hpkeID: randomID("hpke-"), pepper: random(), hpke: random(), keks: map[string]kek{}, wrappedBy: a.URI}
	err := k.useAWSKMS(ctx, a)
	if err == nil {
		err = k.create(ctx, path, a.URI)
	}
	if err != nil {
		return nil, fmt.Errorf("generating key file: %w", err)
	}
	return k.ready()
}

func (k *Keys) create(ctx context.Context, path, by string) error {
	data, err := k.file(ctx, by)
	if err != nil {
		return err
	}
	return writeNew(path, data)
}

// part is one secret of a file. Its name is what it is wrapped under; no data key's id has more than one slash.
type part struct {
	name   string
	hex    *string
	secret *[32]byte
}

// parts of a file and of the keys that belong to it.
func (k *Keys) parts(file *keyFile, local *localKEK) []part {
	all := []part{{"databus/key-file/2/pepper", &file.Pepper, &k.pepper}, {"databus/key-file/2/hpke_private_key/" + file.HPKE.ID, &file.HPKE.Key, &k.hpke}}
	if file.KEK != nil {
		all = append(all, part{"databus/key-file/2/key_encryption_key/" + file.KEK.ID, &file.KEK.Key, (*[32]byte)(local)})
	}
	return all
}

// file is what is written: plain, or wrapped by the key-encryption key with an id.
func (k *Keys) file(ctx context.Context, by string) ([]byte, error) {
	file := &keyFile{Version: 1, WrappedBy: by, HPKE: keyInFile{ID: k.hpkeID}, Note: plainNote}
	if by != "" {
		file.Version, file.Note = 2, wrappedNote
	}
	var local *localKEK
	for id, one := range k.keks {
		if l, ok := one.(*localKEK); ok {
			local, file.KEK = l, &keyInFile{ID: id}
		}
	}
	for _, p := range k.parts(file, local) {
		b := p.secret[:]
		if by != "" {
			var err error
			if b, err = k.keks[by].wrap(ctx, p.name, b); err != nil {
				return nil, fmt.Errorf("wrapping it with %s: %w", by, err)
			}
		}
		*p.hex = hex.EncodeToString(b)
	}
	data, err := json.MarshalIndent(file, "", "  ")
	return append(data, '\n'), err
}

// Wrap replaces a plain key file by one whose secrets are wrapped by a key of AWS KMS. The secrets stay the same, and data keys
// that the file's own key-encryption key wrapped still open. The new file has been read back before it takes the old one's
// place. Copies of the old one still hold everything in plain. A file that is wrapped already is refused.
func Wrap(ctx context.Context, path string, a AWSKMS) error {
	fail := func(err error) error { return fmt.Errorf("wrapping key file %s: %w", path, err) }
	k, err := Load(ctx, path, a)
	if err != nil {
		return err
	}
	if k.wrappedBy != "" {
		return fail(fmt.Errorf("it is wrapped by %s already", k.wrappedBy))
	}
	data, err := k.file(ctx, a.URI)
	if err != nil {
		return fail(err)
	}
	again, err := parse(ctx, data, AWSKMS{Endpoint: a.Endpoint})
	if err != nil {
		return fail(fmt.Errorf("reading it back: %w", err))
	}
	for id, one := range k.keks {
		if l, ok := one.(*localKEK); ok && (again.keks[id] == nil || *again.keks[id].(*localKEK) != *l) || again.pepper != k.pepper || again.hpke != k.hpke {
			return fail(errors.New("what was wrapped is not what was read; nothing was changed"))
		}
	}
	tmp, err := writeTemp(path, data)
	if err != nil {
		return fail(err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fail(errors.Join(err, os.Remove(tmp)))
	}
	return nil
}

// writeNew publishes a file whole or not at all, and only where there is none.
func writeNew(path string, data []byte) error {
	tmp, err := writeTemp(path, data)
	if err != nil {
		return err
	}
	defer os.Remove(tmp)
	return os.Link(tmp, path)
}

func writeTemp(path string, data []byte) (tmp string, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".keys-*") // mode 0600
	if err != nil {
		return "", err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), nil
}

// mounted is the mode of a secret that Kubernetes mounts for the group of a pod that doesn't run as root: the group is the
// only one to read it, and nobody may write it.
const mounted = 0o440

// Load reads a key file. A file that others than its owner may read is refused, unless it is a mounted secret.
//
// A key of AWS KMS that is named becomes the key-encryption key that wraps new data keys; those that the file's own wrapped
// still open, so a deployment can move to KMS by rotating its accounts' keys. Where none is named, one that wrapped the file
// itself is. Credentials come from the AWS environment. KMS is asked only where the file is wrapped. Errors also:
// ErrKEKUnavailable, ErrTampered.
//
// Each data key costs one call of KMS in each process, and again after the cache gave it up; records' own keys are
// wrapped by their account's and cost none. KMS logs the ids of the data keys: they are the encryption context.
func Load(ctx context.Context, path string, a AWSKMS) (*Keys, error) {
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
	keys, err := parse(ctx, data, a)
	if err != nil {
		return nil, fmt.Errorf("loading key file %s: %w", path, err)
	}
	return keys, nil
}

// parse never repeats the content in an error.
func parse(ctx context.Context, data []byte, a AWSKMS) (*Keys, error) {
	var file keyFile
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, errors.New("it is not a JSON key file")
	}
	switch {
	case file.Version != 1 && file.Version != 2:
		return nil, fmt.Errorf("version %d is unknown", file.Version)
	case (file.Version == 2) != (file.WrappedBy != ""):
		return nil, errors.New("wrapped_by belongs to version 2")
	case file.HPKE.ID == "" || file.KEK != nil && file.KEK.ID == "":
		return nil, errors.New("a key has no id")
	case a.URI == "" && a.Endpoint != "" && file.WrappedBy == "":
		return nil, errors.New("an endpoint of KMS is given, but no key of KMS, and the file is not wrapped by one")
	case file.Version == 1 && file.KEK == nil:
		return nil, errors.New("key_encryption_key is missing")
	}
	k := &Keys{hpkeID: file.HPKE.ID, keks: map[string]kek{}, wrappedBy: file.WrappedBy}
	for _, uri := range []string{file.WrappedBy, a.URI} { // the last one wraps
		if uri == "" {
			continue
		}
		if err := k.useAWSKMS(ctx, AWSKMS{URI: uri, Endpoint: a.Endpoint}); err != nil {
			return nil, err
		}
	}
	var local localKEK
	for _, p := range k.parts(&file, &local) {
		name := strings.Split(p.name, "/")[3]
		b, err := hex.DecodeString(*p.hex)
		if err != nil {
			return nil, fmt.Errorf("%s is not in hex", name)
		}
		if file.WrappedBy != "" {
			if b, err = k.keks[file.WrappedBy].unwrap(ctx, p.name, b); err != nil {
				return nil, fmt.Errorf("unwrapping %s with %s: %w", name, file.WrappedBy, err)
			}
		}
		if len(b) != 32 {
			return nil, fmt.Errorf("%s is not 32 bytes in hex", name)
		}
		copy(p.secret[:], b)
	}
	if file.KEK != nil {
		k.keks[file.KEK.ID] = &local
		k.kekID = cmp.Or(k.kekID, file.KEK.ID)
	}
	return k.ready()
}

// ready checks what was made or read, and derives what is used often.
func (k *Keys) ready() (*Keys, error) {
	if _, err := ecdh.X25519().NewPrivateKey(k.hpke[:]); err != nil {
		return nil, errors.New("hpke_private_key is no X25519 key")
	}
	k.identity = k.derive("databus/identifier-pepper/1", "")
	return k, nil
}

// Plain says whether the secrets are in the file as they are, so that who can read it has them.
func (k *Keys) Plain() bool { return k.wrappedBy == "" }

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
