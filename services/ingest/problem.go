package ingest

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/twmb/franz-go/pkg/kerr"

	"databus/pkg/identity"
	"databus/pkg/seal"
	"databus/schemas/codec"
)

// A problem is an error as the API shows it (RFC 9457). It never holds values of a record.
type problem struct {
	Status int    `json:"status"`
	Title  string `json:"title"`
	Detail string `json:"detail,omitempty"`
	// Field names the part of the request that is wrong.
	Field string `json:"field,omitempty"`
}

func (p *problem) Error() string {
	if p.Detail == "" {
		return p.Title
	}
	return p.Title + ": " + p.Detail
}

func badRequest(field, detail string) *problem {
	return &problem{Status: http.StatusBadRequest, Title: "the request is not valid", Detail: detail, Field: field}
}

func unavailable(detail string) *problem {
	return &problem{Status: http.StatusServiceUnavailable, Title: "try again later", Detail: detail}
}

func (p *problem) write(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/problem+json")
	switch p.Status {
	case http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "1")
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // the client is gone if this fails
}

// What is passing, said to the caller.
const (
	notAcknowledged = "the record was not acknowledged; send it again with the same request_id"
	noAnswer        = "the database does not answer"
)

// problemOf is what an error is to the caller. What is nobody's fault but the service's own becomes 503 with the given
// detail, and then fault is true: an operator should hear of it.
func problemOf(err error, passing string) (p *problem, fault bool) {
	var invalid *identity.Invalid
	var missing *noGraph
	switch {
	case errors.As(err, &p):
		return p, false
	case errors.As(err, &invalid):
		return badRequest(invalid.Field, invalid.Reason), false
	case errors.Is(err, seal.ErrRevoked):
		return &problem{Status: http.StatusGone, Title: "the account's data key is revoked"}, false
	case errors.Is(err, codec.ErrTooLarge), errors.Is(err, kerr.MessageTooLarge):
		return &problem{Status: http.StatusRequestEntityTooLarge, Title: "the record is too large"}, false
	case errors.As(err, &missing):
		p = unavailable("graph version " + missing.version + ", to which the serving database is pinned, cannot be loaded")
		p.Field = "graph_version"
		return p, !errors.Is(err, context.Canceled)
	case errors.Is(err, errNoDatabase):
		return unavailable("no database version is serving"), true
	}
	return unavailable(passing), !errors.Is(err, context.Canceled) // the client has gone, or the service ends
}

// failed is problemOf, with the operator told.
func (a *api) failed(doing string, err error, passing string) *problem {
	p, fault := problemOf(err, passing)
	if fault {
		a.env.Log.Warn("call failed", "doing", doing, "error", err)
	}
	return p
}
