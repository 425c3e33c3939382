package seal

import (
	"bytes"
	"crypto/ecdh"
	stdhpke "crypto/hpke"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func generate(t testing.TB) (*Keys, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keys.json")
	k, err := Generate(path)
	if err != nil {
		t.Fatal(err)
	}
	return k, path
}

// local is the key file's key-encryption key.
func local(k *Keys) [32]byte { return *k.keks[k.kekID].(*localKEK) }

func hexOf(b [32]byte) string { return hex.EncodeToString(b[:]) }

func TestKeyFile(t *testing.T) {
	k, path := generate(t)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
	if _, err := Generate(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("generating over a key file: %v", err)
	}
	loaded, err := Load(t.Context(), path, AWSKMS{})
	if err != nil {
		t.Fatal(err)
	}
	if loaded.AccountKey("a") != k.AccountKey("a") || loaded.KEKID() != k.KEKID() || loaded.PublicKey().String() != k.PublicKey().String() {
		t.Error("a loaded key file gives other keys")
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(t.Context(), path, AWSKMS{}); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a file that a group can read: %v", err)
	}
	if err := os.Chmod(path, 0o440); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(t.Context(), path, AWSKMS{}); err != nil {
		t.Errorf("a secret as Kubernetes mounts it: %v", err)
	}
	if _, err := Load(t.Context(), path+".missing", AWSKMS{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	text, _ := os.ReadFile(path)
	for name, bad := range map[string]string{
		"no JSON":   "secret-material",
		"version":   strings.Replace(string(text), `"version": 1`, `"version": 2`, 1),
		"short":     strings.Replace(string(text), hex.EncodeToString(k.pepper[:]), "00", 1),
		"not hex":   strings.Replace(string(text), hexOf(local(k)), "secret-material", 1),
		"empty ids": strings.Replace(string(text), k.kekID, "", 1),
	} {
		if _, err := parse(t.Context(), []byte(bad), AWSKMS{}); err == nil || strings.Contains(err.Error(), "secret-material") {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestSecretsNeverPrint(t *testing.T) {
	k, _ := generate(t)
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "keys", k, "copy", *k)
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "keys", k, "copy", *k)
	j, _ := json.Marshal(map[string]any{"a": k, "b": *k})
	all := log.String() + string(j)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q", "%d"} {
		all += fmt.Sprintf(verb, k) + fmt.Sprintf(verb, *k) + fmt.Sprintf(verb, struct{ K *Keys }{k})
	}
	for _, secret := range [][32]byte{local(k), k.pepper, k.hpke, k.identity} {
		for _, form := range []string{string(secret[:]), hex.EncodeToString(secret[:]), hex.EncodeToString(secret[:4]), fmt.Sprint(secret[:4])[1:10]} {
			if strings.Contains(all, form) {
				t.Fatal("a secret was printed")
			}
		}
	}
}

func TestDerivedKeysDiffer(t *testing.T) {
	k, _ := generate(t)
	other, _ := generate(t)
	seen := map[[32]byte]string{}
	for name, key := range map[string][32]byte{
		"account a": k.AccountKey("a"), "account b": k.AccountKey("b"), "id a": k.AccountIDKey("a"), "id b": k.AccountIDKey("b"),
		"identifiers": k.IdentifierPepper(), "other account a": other.AccountKey("a"), "other identifiers": other.IdentifierPepper(), "pepper": k.pepper,
	} {
		if before, ok := seen[key]; ok {
			t.Errorf("%s equals %s", name, before)
		}
		seen[key] = name
	}
	if again := k.AccountKey("a"); again != k.AccountKey("a") {
		t.Error("a derived key changes")
	}
}

func TestSealOpensOnlyWithEverythingEqual(t *testing.T) {
	key, err := newDataKey("a/1", "a", "", bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	otherKey, _ := newDataKey("a/2", "a", "", bytes.Repeat([]byte{8}, 32))
	otherAccount, _ := newDataKey("b/1", "b", "", bytes.Repeat([]byte{7}, 32))
	fp, payload := []byte("12345678"), []byte("given name and surname")
	prefix := []byte("prefix")
	sealed := key.Seal(bytes.Clone(prefix), "rk", fp, payload)
	if !bytes.HasPrefix(sealed, prefix) || len(sealed) != len(prefix)+len(payload)+Overhead {
		t.Fatalf("%d bytes", len(sealed))
	}
	sealed = sealed[len(prefix):]
	if bytes.Contains(sealed, payload[:8]) {
		t.Fatal("plaintext in sealed data")
	}
	got, err := key.Open(bytes.Clone(prefix), "rk", fp, sealed)
	if err != nil || string(got) != string(prefix)+string(payload) {
		t.Fatalf("%q, %v", got, err)
	}
	if bytes.Equal(sealed, key.Seal(nil, "rk", fp, payload)) {
		t.Error("sealing twice gives the same bytes: the nonce repeats")
	}
	refused := func(name string, k *DataKey, rk string, fp, sealed []byte) {
		t.Helper()
		if out, err := k.Open(nil, rk, fp, sealed); !errors.Is(err, ErrTampered) || len(out) != 0 {
			t.Errorf("%s: %q, %v", name, out, err)
		}
	}
	refused("another key", otherKey, "rk", fp, sealed)
	refused("another account with the same key", otherAccount, "rk", fp, sealed)
	refused("another record", key, "rl", fp, sealed)
	refused("another schema", key, "rk", []byte("12345679"), sealed)
	refused("parts shifted", key, "rk1", []byte("2345678"), sealed)
	for i := range sealed {
		bad := bytes.Clone(sealed)
		bad[i] ^= 1
		refused(fmt.Sprint("byte ", i), key, "rk", fp, bad)
		refused(fmt.Sprint("cut at ", i), key, "rk", fp, sealed[:i])
	}
}

func TestOpenAllocatesNothing(t *testing.T) {
	key, err := newDataKey("account/1", "account", "", bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	fp := []byte("12345678")
	sealed := key.Seal(nil, strings.Repeat("0", 32), fp, bytes.Repeat([]byte("x"), 500))
	buf := make([]byte, 0, 1024)
	if n := testing.AllocsPerRun(1000, func() {
		if _, err := key.Open(buf, "00000000000000000000000000000000", fp, sealed); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations an Open", n)
	}
}

func TestWrap(t *testing.T) {
	k, _ := generate(t)
	other, _ := generate(t)
	key := bytes.Repeat([]byte{9}, 32)
	wrapped, err := k.wrap(t.Context(), "a/1", key)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := k.unwrap(t.Context(), "a/1", k.kekID, wrapped); err != nil || !bytes.Equal(got, key) {
		t.Fatalf("%x, %v", got, err)
	}
	if _, err := k.unwrap(t.Context(), "a/2", k.kekID, wrapped); !errors.Is(err, ErrTampered) {
		t.Errorf("under another id: %v", err)
	}
	if _, err := other.unwrap(t.Context(), "a/1", k.kekID, wrapped); !errors.Is(err, ErrWrongKEK) {
		t.Errorf("with another key file: %v", err)
	}
}

func TestRequests(t *testing.T) {
	k, _ := generate(t)
	text, err := json.Marshal(k.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	var public PublicKey
	if err := json.Unmarshal(text, &public); err != nil {
		t.Fatal(err)
	}
	record := []byte("avro bytes of a customer record")
	sealed, err := public.SealRequest("acme", "r-1", record)
	if err != nil {
		t.Fatal(err)
	}
	opener, err := k.RequestOpener()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := opener.Open(public.ID(), "acme", "r-1", sealed); err != nil || !bytes.Equal(got, record) {
		t.Fatalf("%q, %v", got, err)
	}
	for _, c := range [][2]string{{"acme", "r-2"}, {"acm", "er-1"}, {"other", "r-1"}} {
		if _, err := opener.Open(public.ID(), c[0], c[1], sealed); !errors.Is(err, ErrTampered) {
			t.Errorf("%v: %v", c, err)
		}
	}
	if _, err := opener.Open("hpke-other", "acme", "r-1", sealed); !errors.Is(err, ErrWrongRecipient) {
		t.Errorf("another recipient: %v", err)
	}
	for i := range sealed {
		bad := bytes.Clone(sealed)
		bad[i] ^= 1
		if _, err := opener.Open(public.ID(), "acme", "r-1", bad); !errors.Is(err, ErrTampered) {
			t.Fatalf("byte %d changed: %v", i, err)
		}
	}
	for _, bad := range []string{`{}`, `{"id":"x","suite":"other","public_key":""}`, `{"id":"x","suite":"` + suite + `","public_key":"AAAA"}`, `[`} {
		if err := json.Unmarshal([]byte(bad), new(PublicKey)); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}

// The standard library's HPKE opens what Tink sealed and the other way round: requests are plain RFC 9180.
func TestRequestsArePlainHPKE(t *testing.T) {
	k, _ := generate(t)
	sealed, err := k.PublicKey().SealRequest("acme", "r-1", []byte("record"))
	if err != nil {
		t.Fatal(err)
	}
	scalar, err := ecdh.X25519().NewPrivateKey(k.hpke[:])
	if err != nil {
		t.Fatal(err)
	}
	private, err := stdhpke.NewDHKEMPrivateKey(scalar)
	if err != nil {
		t.Fatal(err)
	}
	info := requestInfo("acme", "r-1")
	got, err := stdhpke.Open(private, stdhpke.HKDFSHA256(), stdhpke.AES256GCM(), info, sealed)
	if err != nil || string(got) != "record" {
		t.Fatalf("%q, %v", got, err)
	}
	back, err := stdhpke.Seal(private.PublicKey(), stdhpke.HKDFSHA256(), stdhpke.AES256GCM(), info, []byte("other"))
	if err != nil {
		t.Fatal(err)
	}
	opener, err := k.RequestOpener()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := opener.Open(k.hpkeID, "acme", "r-1", back); err != nil || string(got) != "other" {
		t.Fatalf("%q, %v", got, err)
	}
}

func BenchmarkOpen(b *testing.B) {
	key, err := newDataKey("account/1", "account", "", bytes.Repeat([]byte{7}, 32))
	if err != nil {
		b.Fatal(err)
	}
	fp := []byte("12345678")
	sealed := key.Seal(nil, strings.Repeat("0", 32), fp, bytes.Repeat([]byte("x"), 500))
	buf := make([]byte, 0, 1024)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := key.Open(buf, "00000000000000000000000000000000", fp, sealed); err != nil {
			b.Fatal(err)
		}
	}
}
