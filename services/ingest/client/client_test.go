package client

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// server answers the nth call, from 1, and returns a client of it.
func server(t *testing.T, answer func(n int, w http.ResponseWriter, r *http.Request)) *Client {
	t.Helper()
	n := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n++
		answer(n, w, r)
	}))
	t.Cleanup(s.Close)
	return &Client{URL: s.URL, APIKey: "key", Attempts: 4}
}

// A call that is tried again is the same call: the ids that the client chose stay.
func TestRetriesKeepTheirIDs(t *testing.T) {
	ids := map[string]int{}
	c := server(t, func(n int, w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Authorization"); got != "Bearer key" {
			t.Errorf("authorization %q", got)
		}
		lines := bufio.NewScanner(r.Body)
		var answers strings.Builder
		for lines.Scan() {
			var rec Record
			if err := json.Unmarshal(lines.Bytes(), &rec); err != nil || rec.RequestID == "" {
				t.Errorf("line %q: %v", lines.Text(), err)
			}
			ids[rec.RequestID]++
			fmt.Fprintf(&answers, `{"request_id":%q,"status":200}`+"\n", rec.RequestID)
		}
		switch n {
		case 1:
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
		case 2: // broken off
			fmt.Fprint(w, answers.String()[:20])
		case 3:
			fmt.Fprint(w, `{"status":503,"problem":"the service is stopping"}`)
		default:
			fmt.Fprint(w, answers.String())
		}
	})
	start := time.Now()
	out, err := c.PutBatch(t.Context(), "acme", []Record{{RecordID: "a"}, {RecordID: "b", RequestID: "mine"}, {RecordID: "c"}})
	if err != nil || len(out) != 3 || out[1].RequestID != "mine" || len(ids) != 3 {
		t.Errorf("%+v, %v; ids %v", out, err, ids)
	}
	for id, n := range ids {
		if n != 4 {
			t.Errorf("id %s was sent %d times", id, n)
		}
	}
	if time.Since(start) < time.Second {
		t.Error("Retry-After was not waited for")
	}
}

// What time does not cure is not tried again.
func TestNotTriedAgain(t *testing.T) {
	calls := 0
	c := server(t, func(n int, w http.ResponseWriter, r *http.Request) {
		calls = n
		if strings.HasSuffix(r.URL.Path, "/batch") {
			fmt.Fprintln(w, `{"request_id":"1","status":200}`)
			fmt.Fprintln(w, `{"request_id":"","status":413,"problem":"the batch is too long"}`)
			return
		}
		w.Header().Set("Content-Type", "application/problem+json")
		w.Header().Set("Retry-After", "60")
		w.WriteHeader(http.StatusTooManyRequests)
		fmt.Fprint(w, `{"title":"Too Many Requests","detail":"used up"}`)
	})
	var e *Error
	if _, err := c.Put(t.Context(), "acme", Record{RecordID: "a"}, true); !errors.As(err, &e) || e.Status != 429 || e.RetryAfter != time.Minute || calls != 1 {
		t.Errorf("put: %v after %d calls", err, calls)
	}
	out, err := c.PutBatch(t.Context(), "acme", make([]Record, 3))
	if !errors.As(err, &e) || e.Status != 413 || calls != 2 || len(out) != 2 || out[0].Status != 200 {
		t.Errorf("batch: %+v, %v after %d calls", out, err, calls)
	}
}

// Any RecordID can be looked up: none changes the path.
func TestPaths(t *testing.T) {
	for id, want := range map[string]string{"a/b": "a%2Fb", "..": "%2E%2E", ".": "%2E", "a b?c#d": "a%20b%3Fc%23d"} {
		var got string
		c := server(t, func(_ int, w http.ResponseWriter, r *http.Request) {
			got = r.URL.EscapedPath()
			fmt.Fprint(w, `{}`)
		})
		if _, err := c.Get(t.Context(), "acme", id); err != nil || got != "/v1/accounts/acme/records/"+want {
			t.Errorf("%q: path %s, %v", id, got, err)
		}
	}
}
