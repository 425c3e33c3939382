// Package kmstest is a test double of AWS KMS: a server on this machine that speaks KMS's protocol (JSON 1.1, Encrypt and
// Decrypt) and really encrypts, under keys that never leave it. It shows that Databus calls KMS as KMS wants to be called;
// it is not KMS, and says nothing about its permissions, its latency or its limits.
//
// Concurrency: its methods may be called by any number of goroutines.
package kmstest

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Server is the double.
type Server struct {
	*httptest.Server
	t testing.TB

	mu       sync.Mutex
	keys     map[string]cipher.AEAD
	disabled bool
	calls    map[string]int
	seen     []map[string]string // encryption contexts
}

// Credentials gives the test credentials of AWS that are good for nothing, instead of the user's own.
func Credentials(t testing.TB) {
	t.Helper()
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	t.Setenv("AWS_CONFIG_FILE", "/nonexistent")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
}

// New starts a server that ends with the test, which gets Credentials.
func New(t testing.TB, arns ...string) *Server {
	t.Helper()
	Credentials(t)
	s := &Server{t: t, keys: map[string]cipher.AEAD{}, calls: map[string]int{}}
	for _, arn := range arns {
		var key [32]byte
		rand.Read(key[:]) // never fails
		block, err := aes.NewCipher(key[:])
		if err != nil {
			t.Fatal(err)
		}
		if s.keys[arn], err = cipher.NewGCM(block); err != nil {
			t.Fatal(err)
		}
	}
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.Close)
	return s
}

// Disable makes all keys disabled, or usable again.
func (s *Server) Disable(disabled bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.disabled = disabled
}

// Calls is how often an operation was asked for.
func (s *Server) Calls(operation string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[operation]
}

// Contexts are the encryption contexts that were given.
func (s *Server) Contexts() []map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.seen)
}

// Request and answer, as the API reference has them.
type request struct {
	KeyId             string
	Plaintext         []byte
	CiphertextBlob    []byte
	EncryptionContext map[string]string
}

type answer struct {
	KeyId               string
	Plaintext           []byte `json:",omitempty"`
	CiphertextBlob      []byte `json:",omitempty"`
	EncryptionAlgorithm string
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	refuse := func(kind string) {
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, `{"__type":%q,"message":"refused"}`, kind)
	}
	operation, ok := strings.CutPrefix(r.Header.Get("X-Amz-Target"), "TrentService.")
	if !ok || r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/x-amz-json-1.1" {
		refuse("UnknownOperationException")
		return
	}
	var q request
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
		refuse("SerializationException")
		return
	}
	s.calls[operation]++
	s.seen = append(s.seen, q.EncryptionContext)
	// The signature is checked as far as its scope: that the request is meant for the key's region and for KMS.
	region := strings.Split(q.KeyId+":::::", ":")[3]
	if !strings.Contains(r.Header.Get("Authorization"), "/"+region+"/kms/aws4_request") {
		refuse("IncompleteSignatureException")
		return
	}
	key := s.keys[q.KeyId]
	switch {
	case key == nil:
		refuse("NotFoundException")
		return
	case s.disabled:
		refuse("DisabledException")
		return
	}
	// The context is additional data: its pairs in order of their names.
	var context []byte
	for _, name := range slices.Sorted(func(yield func(string) bool) {
		for name := range q.EncryptionContext {
			if !yield(name) {
				return
			}
		}
	}) {
		context = fmt.Appendf(context, "%d:%s%d:%s", len(name), name, len(q.EncryptionContext[name]), q.EncryptionContext[name])
	}
	a := answer{KeyId: q.KeyId, EncryptionAlgorithm: "SYMMETRIC_DEFAULT"}
	switch operation {
	case "Encrypt":
		nonce := make([]byte, key.NonceSize())
		rand.Read(nonce) // never fails
		a.CiphertextBlob = key.Seal(append([]byte(q.KeyId+"\x00"), nonce...), nonce, q.Plaintext, context)
	case "Decrypt":
		blob, mine := strings.CutPrefix(string(q.CiphertextBlob), q.KeyId+"\x00")
		if !mine {
			refuse("IncorrectKeyException")
			return
		}
		if len(blob) < key.NonceSize() {
			refuse("InvalidCiphertextException")
			return
		}
		var err error
		if a.Plaintext, err = key.Open(nil, []byte(blob[:key.NonceSize()]), []byte(blob[key.NonceSize():]), context); err != nil {
			refuse("InvalidCiphertextException")
			return
		}
	default:
		refuse("UnknownOperationException")
		return
	}
	if err := json.NewEncoder(w).Encode(a); err != nil {
		s.t.Error(err)
	}
}
