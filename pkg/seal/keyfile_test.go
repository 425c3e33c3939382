package seal

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"databus/pkg/internal/kafkatest"
	"databus/pkg/seal/kmstest"
	"databus/schemas"
)

// holdsPlain says whether a file holds a secret of the keys.
func holdsPlain(t testing.TB, path string, k *Keys) bool {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	secrets := [][32]byte{k.pepper, k.hpke}
	for _, one := range k.keks {
		if l, ok := one.(*localKEK); ok {
			secrets = append(secrets, *l)
		}
	}
	for _, s := range secrets {
		if bytes.Contains(data, []byte(hex.EncodeToString(s[:]))) || bytes.Contains(data, s[:]) {
			return true
		}
	}
	return false
}

func same(a, b *Keys) bool {
	return a.pepper == b.pepper && a.hpke == b.hpke && a.hpkeID == b.hpkeID && a.IdentifierPepper() == b.IdentifierPepper() && a.AccountKey("x") == b.AccountKey("x")
}

// A plain file becomes a wrapped one: the secrets stay the same, what its own key wrapped opens, and the file alone opens nothing.
func TestKeyFileIsWrapped(t *testing.T) {
	server := kmstest.New(t, arnA, arnB)
	at := func(arn string) AWSKMS { return AWSKMS{URI: "aws-kms://" + arn, Endpoint: server.URL} }
	bed := kafkatest.New(t, schemas.KeysEvents)
	plain, path := generate(t)
	if !plain.Plain() || !holdsPlain(t, path, plain) {
		t.Fatal("nothing is tested: the file was not plain")
	}
	old := record(t, openKeyring(t, bed, plain, 0), "acme", "r", "old")

	server.Disable(true)
	if err := Wrap(t.Context(), path, at(arnA)); !errors.Is(err, ErrKEKUnavailable) || !holdsPlain(t, path, plain) {
		t.Fatalf("with a disabled key the file must stay: %v", err)
	}
	server.Disable(false)
	if _, err := Load(t.Context(), path, AWSKMS{Endpoint: server.URL}); err == nil || !strings.Contains(err.Error(), "no key of KMS") {
		t.Errorf("an endpoint alone: %v", err)
	}
	if err := Wrap(t.Context(), path, at(arnA)); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 || holdsPlain(t, path, plain) {
		t.Fatalf("mode %v, %v, or a secret is still plain", info.Mode(), err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".keys-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	wrapped, err := Load(t.Context(), path, AWSKMS{Endpoint: server.URL}) // the file says which key
	if err != nil {
		t.Fatal(err)
	}
	if wrapped.Plain() || !same(wrapped, plain) || wrapped.KEKID() != at(arnA).URI {
		t.Errorf("plain %v, wraps with %s, or other secrets", wrapped.Plain(), wrapped.KEKID())
	}
	if got, err := openKeyring(t, bed, wrapped, 0).Open(t.Context(), nil, old); err != nil || string(got) != "old" {
		t.Errorf("what the file's key wrapped: %q, %v", got, err)
	}
	if err := Wrap(t.Context(), path, at(arnB)); err == nil || !strings.Contains(err.Error(), arnA) {
		t.Errorf("wrapped twice: %v", err)
	}
	// Another key of KMS wraps new data keys; the file's still opens the file and what it wrapped.
	other, err := Load(t.Context(), path, at(arnB))
	if err != nil || !same(other, plain) || other.KEKID() != at(arnB).URI {
		t.Errorf("with another key: %v", err)
	}

	server.Disable(true)
	if _, err := Load(t.Context(), path, AWSKMS{Endpoint: server.URL}); !errors.Is(err, ErrKEKUnavailable) {
		t.Errorf("with a disabled key: %v", err)
	}
	server.Disable(false)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// A secret in another's place, under another id, or by another key does not open.
	k := &keyFileText{t, string(data)}
	for name, bad := range map[string]string{
		"swapped":     k.swapped(),
		"another id":  strings.Replace(k.text, plain.hpkeID, "hpke-0", 1),
		"another key": strings.Replace(k.text, arnA, arnB, 1),
		"plain":       strings.Replace(k.text, `"wrapped_by": "aws-kms://`+arnA+`",`, "", 1),
	} {
		if bad == k.text {
			t.Fatalf("%s: nothing is tested", name)
		}
		if _, err := parse(t.Context(), []byte(bad), AWSKMS{Endpoint: server.URL}); err == nil {
			t.Errorf("%s: it was read", name)
		}
	}
}

// keyFileText is a key file to change.
type keyFileText struct {
	t    testing.TB
	text string
}

// swapped has the wrapped pepper and the wrapped HPKE key in each other's place.
func (k *keyFileText) swapped() string {
	field := func(after, name string) string {
		_, rest, ok := strings.Cut(k.text, after)
		_, rest, ok2 := strings.Cut(rest, `"`+name+`": "`)
		value, _, ok3 := strings.Cut(rest, `"`)
		if !ok || !ok2 || !ok3 {
			k.t.Fatalf("the file has no %s", name)
		}
		return value
	}
	pepper, hpke := field("{", "pepper"), field(`"hpke_private_key"`, "key")
	return strings.NewReplacer(pepper, hpke, hpke, pepper).Replace(k.text)
}

func TestGenerateWrapped(t *testing.T) {
	server := kmstest.New(t, arnA)
	a := AWSKMS{URI: "aws-kms://" + arnA, Endpoint: server.URL}
	path := filepath.Join(t.TempDir(), "keys.json")
	server.Disable(true)
	if _, err := GenerateWrapped(t.Context(), path, a); !errors.Is(err, ErrKEKUnavailable) {
		t.Errorf("with a disabled key: %v", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file was made: %v", err)
	}
	server.Disable(false)
	made, err := GenerateWrapped(t.Context(), path, a)
	if err != nil {
		t.Fatal(err)
	}
	if holdsPlain(t, path, made) || made.Plain() {
		t.Error("a secret is plain")
	}
	loaded, err := Load(t.Context(), path, a)
	if err != nil || !same(made, loaded) {
		t.Errorf("it is not what was made: %v", err)
	}
	if _, err := GenerateWrapped(t.Context(), path, a); !errors.Is(err, fs.ErrExist) {
		t.Errorf("generating over a key file: %v", err)
	}
}
