package ingest

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/identity"
	"databus/pkg/seal"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

// A putBody is a record as the API takes it; package client holds the caller's side.
type putBody struct {
	RequestID string            `json:"request_id"`
	RecordID  string            `json:"record_id"`
	Fields    map[string]string `json:"fields"`
	Delete    bool              `json:"delete"`
}

// A putResult is the answer to one record.
type putResult struct {
	RequestID    string   `json:"request_id"`
	Status       int      `json:"status"`
	FCID         string   `json:"fcid,omitempty"`
	PersonID     string   `json:"person_id,omitempty"`
	GraphVersion string   `json:"graph_version,omitempty"`
	Partition    int32    `json:"partition"`
	Offset       int64    `json:"offset"`
	Applied      bool     `json:"applied,omitempty"`
	Problem      string   `json:"problem,omitempty"`
	Field        string   `json:"field,omitempty"`
	Warnings     []string `json:"warnings,omitempty"`
}

func (b *putBody) request(account string) *identity.Request {
	q := &identity.Request{Account: account, RequestID: b.RequestID, Kind: event.RequestKindUpsert,
		Record: event.CustomerRecord{RecordID: b.RecordID, Fields: b.Fields}}
	if b.Delete {
		q.Kind, q.Record.Fields = event.RequestKindDelete, nil
	}
	if q.RequestID == "" {
		q.RequestID = uuid.NewString()
	}
	return q
}

// A pending record has been given to the producer; done receives once.
type pending struct {
	result putResult
	key    string // of the record in the database
	done   chan error
}

// send resolves and seals one request and gives it to the producer, which answers on done.
func (a *api) send(ctx context.Context, q *identity.Request) (*pending, *problem) {
	db, g, err := a.serving(ctx)
	if err != nil {
		return nil, a.failed(err)
	}
	res, err := a.resolver.Resolve(ctx, g, q)
	if err != nil {
		return nil, a.failed(err)
	}
	value, err := a.records.Encode(ctx, &res.Record)
	if err != nil {
		return nil, a.failed(err)
	}
	p := &pending{key: res.Record.RecordKey, done: make(chan error, 1), result: putResult{
		RequestID: q.RequestID, FCID: res.FCID, PersonID: res.PersonID, GraphVersion: db.GraphVersion, Status: http.StatusOK}}
	for _, w := range res.Problems {
		p.result.Warnings = append(p.result.Warnings, w.String())
	}
	a.producer.Produce(ctx, &kgo.Record{Topic: schemas.DatabusRecords, Key: []byte(res.Key()), Value: value}, func(r *kgo.Record, err error) {
		p.result.Partition, p.result.Offset = r.Partition, r.Offset
		p.done <- err
	})
	return p, nil
}

// failed is the problem that a failure is to the caller: nothing was acknowledged.
func (a *api) failed(err error) *problem {
	var invalid *identity.Invalid
	var known *problem
	switch {
	case errors.As(err, &known):
		return known
	case errors.As(err, &invalid):
		return badRequest(invalid.Field, invalid.Reason)
	case errors.Is(err, seal.ErrRevoked):
		return &problem{Status: http.StatusGone, Title: "the account's data key is revoked"}
	case errors.Is(err, errNoDatabase):
		return unavailable("no database version is serving")
	case errors.Is(err, codec.ErrTooLarge):
		return &problem{Status: http.StatusRequestEntityTooLarge, Title: "the record is too large"}
	}
	a.env.Log.Warn("call failed", "error", err)
	return unavailable("the record was not acknowledged; send it again with the same request_id")
}

// put handles POST of a single record.
func (a *api) put(w http.ResponseWriter, r *http.Request, account string) {
	var body putBody
	p := a.readBody(w, r, &body)
	if p == nil && body.RequestID == "" {
		body.RequestID = r.Header.Get("Idempotency-Key")
	}
	if p == nil {
		p = a.putOne(w, r, account, &body, "put")
	}
	if p != nil {
		p.write(w)
		a.metrics.calls.WithLabelValues("put", strconv.Itoa(p.Status)).Inc()
	}
}

// delete handles DELETE of a record.
func (a *api) delete(w http.ResponseWriter, r *http.Request, account string) {
	body := putBody{RecordID: r.PathValue("id"), RequestID: r.Header.Get("Idempotency-Key"), Delete: true}
	if p := a.putOne(w, r, account, &body, "delete"); p != nil {
		p.write(w)
		a.metrics.calls.WithLabelValues("delete", strconv.Itoa(p.Status)).Inc()
	}
}

func (a *api) putOne(w http.ResponseWriter, r *http.Request, account string, body *putBody, route string) *problem {
	sent, p := a.send(r.Context(), body.request(account))
	if p != nil {
		return p
	}
	if err := <-sent.done; err != nil {
		return a.failed(fmt.Errorf("producing to %s: %w", schemas.DatabusRecords, err))
	}
	a.used(usageID(account, []string{sent.result.RequestID}), account, packWrite, r.Pattern, http.StatusOK, 1)
	if r.URL.Query().Get("wait") == "applied" {
		sent.result.Applied = a.awaitApplied(r.Context(), account, sent)
		if !sent.result.Applied {
			sent.result.Status = http.StatusAccepted
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(sent.result.Status)
	_ = json.NewEncoder(w).Encode(&sent.result) // the record is on the Databus whether the client reads this or not
	a.metrics.calls.WithLabelValues(route, strconv.Itoa(sent.result.Status)).Inc()
	return nil
}

func (a *api) readBody(w http.ResponseWriter, r *http.Request, into *putBody) *problem {
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, a.cfg.API.MaxBody))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return bodyProblem(err)
	}
	return nil
}

func bodyProblem(err error) *problem {
	var big *http.MaxBytesError
	if errors.As(err, &big) {
		return &problem{Status: http.StatusRequestEntityTooLarge, Title: "the record is too large", Detail: fmt.Sprintf("at most %d bytes", big.Limit)}
	}
	var mismatch *json.UnmarshalTypeError
	if errors.As(err, &mismatch) {
		return badRequest(mismatch.Field, "is a "+mismatch.Value+", not a "+mismatch.Type.String())
	}
	// The decoder's other errors may quote the body.
	return badRequest("", "the body is no JSON object with record_id, fields, request_id and delete")
}

// awaitApplied waits until the serving database has the record's version, or the call's time is over.
func (a *api) awaitApplied(ctx context.Context, account string, p *pending) bool {
	version, err := identity.Version(0, p.result.Offset)
	if err != nil {
		return false
	}
	for pause := 2 * time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		db, _, err := a.serving(ctx)
		if err == nil {
			if store, err := a.stores.Keyspace(db.Keyspace); err == nil {
				// A repeat never becomes the stored version; the applier's position would have to be asked for it.
				if row, ok, err := store.Get(ctx, account, p.key); err == nil && ok && row.Version >= version {
					return true
				}
			}
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(pause):
		}
	}
}

// inFlight is how many records of a batch may wait for their acknowledgement.
const inFlight = 2000

// batch handles POST of records as NDJSON: a result per line, in order, each written as soon as its record and those
// before it are acknowledged. A line that is wrong is answered as such and changes nothing for the others.
func (a *api) batch(w http.ResponseWriter, r *http.Request, account string) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	// Reading on while answers are written; otherwise the server drains the body first.
	_ = http.NewResponseController(w).EnableFullDuplex() // HTTP/2 always does
	w.Header().Set("Content-Type", "application/x-ndjson")

	queue := make(chan *pending, inFlight)
	go func() {
		defer close(queue)
		a.readBatch(ctx, r.Body, account, queue)
	}()
	var accepted []string // request ids
	enc := json.NewEncoder(w)
	for p := range queue {
		if err := <-p.done; err != nil {
			f := a.failed(err)
			p.result = putResult{RequestID: p.result.RequestID, Status: f.Status, Problem: f.Title, Field: f.Field}
			if f.Detail != "" {
				p.result.Problem += ": " + f.Detail
			}
		} else {
			accepted = append(accepted, p.result.RequestID)
		}
		a.metrics.calls.WithLabelValues("batch", strconv.Itoa(p.result.Status)).Inc()
		if err := enc.Encode(&p.result); err != nil {
			cancel() // the client is gone; it will send the batch again
			for range queue {
			}
			break
		}
	}
	if n := len(accepted); n > 0 {
		a.used(usageID(account, accepted), account, packWrite, r.Pattern, http.StatusOK, int64(n))
	}
}

// usageID names the usage event of a call by the requests in it, so that the same call sent again is the same event.
func usageID(account string, requests []string) string {
	h := sha256.New()
	for _, s := range append([]string{account}, requests...) {
		_ = binary.Write(h, binary.BigEndian, uint32(len(s)))
		_, _ = io.WriteString(h, s)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// readBatch reads lines and sends their records; what is refused comes back as a pending that has failed already.
func (a *api) readBatch(ctx context.Context, body io.Reader, account string, queue chan<- *pending) {
	refuse := func(id string, p *problem) {
		f := &pending{result: putResult{RequestID: id}, done: make(chan error, 1)}
		f.done <- p
		queue <- f
	}
	lines := bufio.NewScanner(body)
	lines.Buffer(make([]byte, 0, 64<<10), int(a.cfg.API.MaxBody))
	n := 0
	for lines.Scan() && ctx.Err() == nil {
		if len(lines.Bytes()) == 0 {
			continue
		}
		if n++; n > a.cfg.API.MaxBatch {
			refuse("", &problem{Status: http.StatusRequestEntityTooLarge, Title: "the batch is too long", Detail: fmt.Sprintf("at most %d lines; the rest was not read", a.cfg.API.MaxBatch)})
			return
		}
		var b putBody
		if err := json.Unmarshal(lines.Bytes(), &b); err != nil {
			p := bodyProblem(err)
			p.Detail = fmt.Sprintf("line %d: %s", n, p.Detail)
			refuse("", p)
			continue
		}
		q := b.request(account)
		sent, p := a.send(ctx, q)
		if p != nil {
			refuse(q.RequestID, p)
			continue
		}
		queue <- sent
	}
	if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		refuse("", &problem{Status: http.StatusRequestEntityTooLarge, Title: "a line is too long", Detail: fmt.Sprintf("line %d: at most %d bytes; the rest was not read", n+1, a.cfg.API.MaxBody)})
	}
}
