package ingest

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"databus/schemas"
)

// Scopes of an API key.
const (
	scopeRead  = "read"
	scopeWrite = "write"
)

// An apiKey lets its holder act for one account. The file holds a JSON array of them:
//
//	[{"sha256": "<hex of the SHA-256 of the key>", "account": "acme", "scopes": ["read", "write"], "expires": "2027-01-31T00:00:00Z"}]
//
// A key is a long random text, so its plain hash cannot be turned back. Without an expiry it is good until it is removed.
type apiKey struct {
	SHA256  string    `json:"sha256"`
	Account string    `json:"account"`
	Scopes  []string  `json:"scopes"`
	Expires time.Time `json:"expires,omitzero"` // RFC 3339

	sum []byte
}

// apiKeys decides who may call what. No keys at all means that everybody may: see [Config.Validate].
type apiKeys struct{ keys []apiKey }

func loadAPIKeys(path string) (*apiKeys, error) {
	if path == "" {
		return &apiKeys{}, nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading API keys: %w", err)
	}
	var keys []apiKey
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields() // somebody who misspells the expiry must not believe that it holds
	if err := dec.Decode(&keys); err != nil {
		return nil, fmt.Errorf("reading API keys from %s: %w", path, err)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("reading API keys from %s: the list is empty, so nobody could call", path)
	}
	for i := range keys {
		k := &keys[i]
		if k.sum, err = hex.DecodeString(k.SHA256); err != nil || len(k.sum) != sha256.Size {
			return nil, fmt.Errorf("reading API keys from %s: entry %d: sha256 is not 64 hex digits", path, i)
		}
		if !schemas.ValidAccount(k.Account) {
			return nil, fmt.Errorf("reading API keys from %s: entry %d: account is not valid", path, i)
		}
		if len(k.Scopes) == 0 {
			return nil, fmt.Errorf("reading API keys from %s: entry %d: it has no scopes, so it would allow nothing", path, i)
		}
		for _, s := range k.Scopes {
			if s != scopeRead && s != scopeWrite {
				return nil, fmt.Errorf("reading API keys from %s: entry %d: scope %q is neither %s nor %s", path, i, s, scopeRead, scopeWrite)
			}
		}
	}
	return &apiKeys{keys}, nil
}

// allow checks the request's bearer token for an account and a scope.
func (a *apiKeys) allow(r *http.Request, account, scope string) *problem {
	if len(a.keys) == 0 {
		return nil
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return &problem{Status: http.StatusUnauthorized, Title: "an API key is needed", Detail: "send the header Authorization: Bearer KEY"}
	}
	sum := sha256.Sum256([]byte(token))
	for _, k := range a.keys {
		if subtle.ConstantTimeCompare(k.sum, sum[:]) == 1 {
			if !k.Expires.IsZero() && !time.Now().Before(k.Expires) {
				return &problem{Status: http.StatusUnauthorized, Title: "the API key has expired"}
			}
			if k.Account == account && slices.Contains(k.Scopes, scope) {
				return nil
			}
			return &problem{Status: http.StatusForbidden, Title: "the API key does not allow this"}
		}
	}
	return &problem{Status: http.StatusUnauthorized, Title: "the API key is not known"}
}
