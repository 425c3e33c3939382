package ingest

import (
	"encoding/json"
	"net/http"
)

// A problem is an error as the API shows it (RFC 9457). It never holds values of a record.
type problem struct {
	Status int    `json:"status"`
	Title  string `json:"title"`
	Detail string `json:"detail,omitempty"`
	// Field names the part of the request that is wrong.
	Field string `json:"field,omitempty"`
}

func (p *problem) Error() string { return p.Title + ": " + p.Detail }

func badRequest(field, detail string) *problem {
	return &problem{Status: http.StatusBadRequest, Title: "the request is not valid", Detail: detail, Field: field}
}

func unavailable(detail string) *problem {
	return &problem{Status: http.StatusServiceUnavailable, Title: "try again later", Detail: detail}
}

func (p *problem) write(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/problem+json")
	if p.Status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // the client is gone if this fails
}
