// Package client calls ingest's HTTP API.
//
// Promise: a call that succeeded is on the Databus. A call that failed for a passing reason (no connection, a broken
// answer, 5xx) is tried again with the same request ids until the context ends or the attempts are used up; repeats change
// nothing. 429 is returned at once: a limit that is used up lasts, and Error.RetryAfter says how long.
//
// With PublicKey set, records are sealed for ingest before they leave the process, so that nothing between here and there
// reads them; without it they travel over the connection's own encryption. It holds no key that opens anything.
//
// A Client is safe for concurrent use.
package client

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"databus/pkg/seal"
	"databus/schemas/codec"
	"databus/schemas/event"
)

// Record is a customer's record.
type Record struct {
	// RequestID is the idempotency key; where it is empty the client chooses one for the call and its repeats.
	RequestID string            `json:"request_id,omitempty"`
	RecordID  string            `json:"record_id"`
	Fields    map[string]string `json:"fields,omitempty"`
	// Delete removes the record instead.
	Delete bool `json:"delete,omitempty"`
}

// Result is the answer to one record.
type Result struct {
	RequestID    string `json:"request_id"`
	Status       int    `json:"status"`
	FCID         string `json:"fcid,omitempty"`
	PersonID     string `json:"person_id,omitempty"`
	GraphVersion string `json:"graph_version,omitempty"`
	Partition    int32  `json:"partition"`
	Offset       int64  `json:"offset"`
	// Applied says that the serving database has taken the record in; only with wait.
	Applied bool   `json:"applied,omitempty"`
	Problem string `json:"problem,omitempty"`
	Field   string `json:"field,omitempty"`
	// Warnings name fields that should have identified a person and did not.
	Warnings []string `json:"warnings,omitempty"`
}

// Found is a record as a look-up returns it.
type Found struct {
	RecordID string            `json:"record_id"`
	FCID     string            `json:"fcid"`
	PersonID string            `json:"person_id"`
	Version  int64             `json:"version"`
	Fields   map[string]string `json:"fields"`
}

// Error is an answer that is not a success.
type Error struct {
	Status     int
	Title      string `json:"title"`
	Detail     string `json:"detail"`
	Field      string `json:"field"`
	RetryAfter time.Duration
}

func (e *Error) Error() string {
	s := fmt.Sprintf("ingest answered %d", e.Status)
	if e.Title != "" {
		s += ": " + e.Title
	}
	if e.Detail != "" {
		s += " (" + e.Detail + ")"
	}
	return s
}

// NotFound reports whether err says that nothing was found.
func NotFound(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Status == http.StatusNotFound
}

// Client calls one deployment's API. Set the fields before the first call.
type Client struct {
	// URL is the API's base, such as http://127.0.0.1:8080.
	URL string
	// APIKey is sent as bearer token; empty sends none.
	APIKey string
	// PublicKey seals records to ingest; nil sends them as they are. See FetchPublicKey.
	PublicKey *seal.PublicKey
	// HTTP sends the calls; nil means http.DefaultClient.
	HTTP *http.Client
	// Attempts a call at most; 0 means 8. The pause between them doubles from 100 ms to 5 s, or is what the API asks for.
	Attempts int
}

// Put sets or deletes a record; with wait it returns when the serving database has it (Result.Applied) or the API's
// time for that is over.
func (c *Client) Put(ctx context.Context, account string, r Record, wait bool) (Result, error) {
	var out Result
	path := "/v1/accounts/" + segment(account) + "/records"
	if wait {
		path += "?wait=applied"
	}
	if r.RequestID == "" {
		r.RequestID = rand.Text()
	}
	body, err := c.encode(account, &r)
	if err != nil {
		return out, fmt.Errorf("encoding record: %w", err)
	}
	err = c.call(ctx, http.MethodPost, path, "application/json", body, func(b io.Reader) error { return json.NewDecoder(b).Decode(&out) })
	return out, err
}

// PutBatch sends records in one call and returns a result for each, in order. The error is of the call as a whole, and
// the results are then those up to where it ended; a record that was refused has its Status and Problem.
func (c *Client) PutBatch(ctx context.Context, account string, records []Record) ([]Result, error) {
	var body bytes.Buffer
	for _, r := range records {
		if r.RequestID == "" {
			r.RequestID = rand.Text()
		}
		line, err := c.encode(account, &r)
		if err != nil {
			return nil, fmt.Errorf("encoding record: %w", err)
		}
		body.Write(append(line, '\n'))
	}
	var out []Result
	err := c.call(ctx, http.MethodPost, "/v1/accounts/"+segment(account)+"/records/batch", "application/x-ndjson", body.Bytes(), func(b io.Reader) error {
		out = make([]Result, 0, len(records))
		lines := bufio.NewScanner(b)
		lines.Buffer(make([]byte, 64<<10), 1<<20)
		for lines.Scan() {
			var r Result
			if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
				return &Error{Status: http.StatusBadGateway, Title: "a line of the answer is no JSON"}
			}
			if r.Status >= 500 || r.Status == http.StatusTooManyRequests {
				return &Error{Status: r.Status, Title: r.Problem}
			}
			out = append(out, r)
		}
		if err := lines.Err(); err != nil {
			return fmt.Errorf("reading the answer: %w", err)
		}
		if n := len(out); n < len(records) && n > 0 && out[n-1].Status == http.StatusRequestEntityTooLarge {
			return &Error{Status: out[n-1].Status, Title: out[n-1].Problem} // the batch is too long; sending it again does not help
		}
		if len(out) != len(records) {
			return &Error{Status: http.StatusBadGateway, Title: fmt.Sprintf("%d answers for %d records", len(out), len(records))}
		}
		return nil
	})
	return out, err
}

// sealed is a record's form under a seal.
type sealed struct {
	RequestID      string `json:"request_id"`
	RecipientKeyID string `json:"recipient_key_id"`
	Sealed         []byte `json:"sealed"`
	Delete         bool   `json:"delete,omitempty"`
}

// encode is a record as it is sent.
func (c *Client) encode(account string, r *Record) ([]byte, error) {
	if c.PublicKey == nil {
		return json.Marshal(r)
	}
	fields := r.Fields
	if fields == nil || r.Delete {
		fields = map[string]string{}
	}
	plain, err := codec.ForEmbedded[event.CustomerRecord]("customer_record").Append(nil, &event.CustomerRecord{RecordID: r.RecordID, Fields: fields})
	if err != nil {
		return nil, err
	}
	b, err := c.PublicKey.SealRequest(account, r.RequestID, plain)
	if err != nil {
		return nil, err
	}
	return json.Marshal(sealed{r.RequestID, c.PublicKey.ID(), b, r.Delete})
}

// FetchPublicKey gets the key to which records are sealed. It is for who trusts the connection; others carry the key
// over by hand.
func (c *Client) FetchPublicKey(ctx context.Context) (*seal.PublicKey, error) {
	key := new(seal.PublicKey)
	err := c.call(ctx, http.MethodGet, "/v1/public-key", "", nil, func(b io.Reader) error { return json.NewDecoder(b).Decode(key) })
	if err != nil {
		return nil, fmt.Errorf("fetching the public key: %w", err)
	}
	return key, nil
}

// Get looks a record up by its RecordID.
func (c *Client) Get(ctx context.Context, account, recordID string) (Found, error) {
	var out Found
	err := c.call(ctx, http.MethodGet, "/v1/accounts/"+segment(account)+"/records/"+segment(recordID), "", nil,
		func(b io.Reader) error { return json.NewDecoder(b).Decode(&out) })
	return out, err
}

// ByPerson returns an account's records of a person, by PersonID.
func (c *Client) ByPerson(ctx context.Context, account, personID string) ([]Found, error) {
	return c.list(ctx, "/v1/accounts/"+segment(account)+"/persons/"+segment(personID))
}

// ByFCID returns an account's records of a person, by FCID.
func (c *Client) ByFCID(ctx context.Context, account, fcid string) ([]Found, error) {
	return c.list(ctx, "/v1/accounts/"+segment(account)+"/fcids/"+segment(fcid))
}

// segment escapes an id for a path. Servers and proxies resolve "." and ".." unless their dots are escaped.
func segment(id string) string {
	if id == "." || id == ".." {
		return strings.ReplaceAll(id, ".", "%2E")
	}
	return url.PathEscape(id)
}

func (c *Client) list(ctx context.Context, path string) ([]Found, error) {
	var out struct {
		Records []Found `json:"records"`
	}
	err := c.call(ctx, http.MethodGet, path, "", nil, func(b io.Reader) error { return json.NewDecoder(b).Decode(&out) })
	return out.Records, err
}

// call sends a request until it succeeds or fails for good, and gives a success's body to read.
func (c *Client) call(ctx context.Context, method, path, contentType string, body []byte, read func(io.Reader) error) error {
	attempts := c.Attempts
	if attempts == 0 {
		attempts = 8
	}
	pause := 100 * time.Millisecond
	for i := 1; ; i++ {
		err := c.once(ctx, method, path, contentType, body, read)
		if err == nil || i == attempts || !passing(err) || ctx.Err() != nil {
			return err
		}
		wait := pause/2 + mathrand.N(pause/2)
		var e *Error
		if errors.As(err, &e) && e.RetryAfter > wait {
			wait = min(e.RetryAfter, 30*time.Second)
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(wait):
		}
		pause = min(2*pause, 5*time.Second)
	}
}

// passing reports whether trying again can help. A limit that is used up is not: it says when it ends.
func passing(err error) bool {
	var e *Error
	if !errors.As(err, &e) {
		return true // no answer
	}
	return e.Status >= 500
}

func (c *Client) once(ctx context.Context, method, path, contentType string, body []byte, read func(io.Reader) error) error {
	req, err := http.NewRequestWithContext(ctx, method, c.URL+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("calling ingest: %w", err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	if c.APIKey != "" {
		req.Header.Set("Authorization", "Bearer "+c.APIKey)
	}
	h := c.HTTP
	if h == nil {
		h = http.DefaultClient
	}
	resp, err := h.Do(req)
	if err != nil {
		return fmt.Errorf("calling ingest: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		e := &Error{}
		_ = json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(e) // the status says enough where the body does not
		e.Status = resp.StatusCode
		if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil {
			e.RetryAfter = time.Duration(s) * time.Second
		}
		return e
	}
	return read(resp.Body)
}
