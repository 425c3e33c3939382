package ingest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// keyEntry is an entry of the file of API keys.
type keyEntry struct {
	SHA256  string   `json:"sha256"`
	Account string   `json:"account"`
	Scopes  []string `json:"scopes"`
	Expires string   `json:"expires,omitempty"`
}

func entryOf(key, account, expires string, scopes ...string) keyEntry {
	sum := sha256.Sum256([]byte(key))
	return keyEntry{hex.EncodeToString(sum[:]), account, scopes, expires}
}

func keysFile(t *testing.T, entries ...keyEntry) string {
	t.Helper()
	b, err := json.Marshal(entries)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "keys.json")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// Every route, with every way of not being allowed to call it. The routes are those that the service serves: a new one is
// in this table by itself.
func TestAuthorisation(t *testing.T) {
	past, future := time.Now().Add(-time.Second).Format(time.RFC3339), time.Now().Add(time.Hour).Format(time.RFC3339)
	r := newRig(t, map[string]any{"api.keys_file": keysFile(t,
		entryOf("full", "acme", future, scopeRead, scopeWrite), entryOf("reader", "acme", "", scopeRead), entryOf("writer", "acme", "", scopeWrite),
		entryOf("expired", "acme", past, scopeRead, scopeWrite), entryOf("other", "other", "", scopeRead, scopeWrite))})
	r.start()
	allowed := map[string]int{"put": 200, "batch": 200, "delete": 200, "get": 404, "person": 404, "fcid": 404}
	open := []string{}
	for _, op := range (&api{Service: r.service}).table() {
		path := strings.NewReplacer("{account}", "acme", "{id}", "00000000-0000-8000-8000-000000000000").Replace(op.path)
		if op.name == "fcid" {
			path = strings.ReplaceAll(path, "-", "")
		}
		if op.scope == "" {
			open = append(open, op.name)
			if p := r.call(op.method, path, ""); p.status != http.StatusOK {
				t.Errorf("%s: %d %s", op.name, p.status, p.body)
			}
			continue
		}
		lacking := map[string]string{scopeRead: "writer", scopeWrite: "reader"}[op.scope]
		before := len(r.records())
		for _, c := range []struct {
			name, header string
			want         int
		}{
			{"no key", "", 401}, {"no token", "Bearer", 401}, {"an empty token", "Bearer ", 401}, {"another scheme", "Basic full", 401},
			{"an unknown key", "Bearer unknown", 401}, {"the key's hash", "Bearer " + entryOf("full", "", "").SHA256, 401}, {"an expired key", "Bearer expired", 401},
			{"another account's key", "Bearer other", 403}, {"a key without the scope", "Bearer " + lacking, 403},
		} {
			p := r.call(op.method, path, `{"record_id":"a"}`, "Authorization", c.header)
			if p.status != c.want || p.problem(t).Status != c.want || (c.want == 401) != (p.header.Get("WWW-Authenticate") == "Bearer") {
				t.Errorf("%s with %s: %d %v %s", op.name, c.name, p.status, p.header, p.body)
			}
		}
		if n := len(r.records()); n != before {
			t.Errorf("%s: %d records were written without leave", op.name, n-before)
		}
		if p := r.call(op.method, path, `{"record_id":"a"}`, "Authorization", "bearer full"); allowed[op.name] == 0 || p.status != allowed[op.name] {
			t.Errorf("%s with the key: %d %s", op.name, p.status, p.body)
		}
	}
	if got := strings.Join(open, " "); got != "public-key openapi" {
		t.Errorf("routes that are open to everybody: %s", got)
	}
	if n := len(r.records()); n != 3 {
		t.Errorf("%d records were written, want 3", n)
	}
	r.stop()
	for _, rec := range r.read("usage.events") {
		if strings.HasPrefix(string(rec.Key), "other") {
			t.Error("a call that was denied was counted")
		}
	}
}

// A file that would not do what its author believes is refused at the start.
func TestKeysFile(t *testing.T) {
	sum := entryOf("key", "", "").SHA256
	for name, bad := range map[string]string{
		"misspelt expiry": `[{"sha256":"` + sum + `","account":"acme","scopes":["read"],"expiry":"2020-01-01T00:00:00Z"}]`,
		"expiry":          `[{"sha256":"` + sum + `","account":"acme","scopes":["read"],"expires":"tomorrow"}]`,
		"short":           `[{"sha256":"00","account":"acme","scopes":["read"]}]`,
		"scope":           `[{"sha256":"` + sum + `","account":"acme","scopes":["admin"]}]`,
		"no scope":        `[{"sha256":"` + sum + `","account":"acme","scopes":[]}]`,
		"account":         `[{"sha256":"` + sum + `","account":"a/b","scopes":["read"]}]`,
		"a key as it is":  `[{"key":"secret","account":"acme","scopes":["read"]}]`,
		"none":            `[]`,
	} {
		file := filepath.Join(t.TempDir(), "keys.json")
		if err := os.WriteFile(file, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := loadAPIKeys(file); err == nil {
			t.Errorf("key file %s was taken", name)
		}
	}
	if _, err := loadAPIKeys(keysFile(t, entryOf("key", "acme", "2999-01-01T00:00:00Z", scopeRead))); err != nil {
		t.Error(err)
	}
}
