package ingest

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"

	"databus/pkg/identity"
	"databus/schemas/event"
)

// A putBody is a record as the API takes it; package client holds the caller's side.
type putBody struct {
	RequestID string            `json:"request_id"`
	RecordID  string            `json:"record_id"`
	Fields    map[string]string `json:"fields"`
	Delete    bool              `json:"delete"`
	// Sealed holds a CustomerRecord in Avro, sealed to the public key of this id, in place of record_id and fields.
	RecipientKeyID string `json:"recipient_key_id"`
	Sealed         []byte `json:"sealed"`
}

// request is what a body asks for.
func (s *Service) request(account string, b *putBody) (*identity.Request, *problem) {
	if b.Sealed != nil || b.RecipientKeyID != "" {
		return s.open(account, b)
	}
	q := &identity.Request{Account: account, RequestID: b.RequestID, Kind: event.RequestKindUpsert,
		Record: event.CustomerRecord{RecordID: b.RecordID, Fields: b.Fields}}
	if b.Delete {
		q.Kind, q.Record.Fields = event.RequestKindDelete, nil
	}
	if q.RequestID == "" {
		q.RequestID = uuid.NewString()
	}
	return q, nil
}

// decodeBody reads one JSON object: a POST's body or a line of a batch.
func decodeBody(b []byte, into *putBody) *problem {
	// The decoder would replace what is not UTF-8, and store what nobody has sent.
	if !utf8.Valid(b) {
		return badRequest("", "the body is not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return jsonProblem(err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return badRequest("", "something follows the JSON object")
	}
	return nil
}

// jsonProblem names the field that is wrong. Only the decoder's own words and the names of fields get into it: other
// errors may quote values.
func jsonProblem(err error) *problem {
	var mismatch *json.UnmarshalTypeError
	if errors.As(err, &mismatch) {
		got, _, _ := strings.Cut(mismatch.Value, " ") // "number 12" is a value
		if mismatch.Field == "" {
			return badRequest("", "the body is a JSON "+got+", not an object")
		}
		return badRequest(mismatch.Field, fmt.Sprintf("is a JSON %s, not %s", got, map[string]string{
			"string": "a string", "bool": "true or false", "map[string]string": "an object of strings", "[]uint8": "base64"}[mismatch.Type.String()]))
	}
	if name, ok := strings.CutPrefix(err.Error(), `json: unknown field "`); ok {
		name = strings.TrimSuffix(name, `"`)
		return badRequest(name[:min(len(name), identity.MaxFieldName)], "is not known; there are request_id, record_id, fields and delete, or recipient_key_id and sealed")
	}
	var corrupt base64.CorruptInputError
	if errors.As(err, &corrupt) {
		return badRequest("sealed", "is not base64")
	}
	return badRequest("", "the body is no JSON object with record_id, fields, request_id and delete")
}

func tooLarge(limit int64) *problem {
	return &problem{Status: http.StatusRequestEntityTooLarge, Title: "the record is too large", Detail: fmt.Sprintf("at most %d bytes", limit)}
}

// readBody reads the body of a single record.
func (a *api) readBody(w http.ResponseWriter, r *http.Request, into *putBody) *problem {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, a.cfg.API.MaxBody))
	var big *http.MaxBytesError
	switch {
	case errors.As(err, &big):
		return tooLarge(big.Limit)
	case err != nil:
		return badRequest("", "the body ended early")
	}
	return decodeBody(b, into)
}
