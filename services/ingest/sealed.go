package ingest

import (
	"encoding/json"
	"errors"
	"net/http"

	"databus/pkg/identity"
	"databus/pkg/seal"
	"databus/schemas/event"
)

// publicKey answers with the key to which producers seal.
func (a *api) publicKey(w http.ResponseWriter, _ *http.Request, _ string) *problem {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "max-age=300")
	_ = json.NewEncoder(w).Encode(a.public) // the client is gone if this fails
	return nil
}

// open turns a sealed body into a request, as the request loop does.
func (s *Service) open(account string, b *putBody) (*identity.Request, *problem) {
	switch {
	case b.RecordID != "" || b.Fields != nil:
		return nil, badRequest("sealed", "a sealed record has neither record_id nor fields outside of the seal")
	case b.RequestID == "":
		return nil, badRequest("request_id", "a sealed record needs the request_id that it was sealed with")
	}
	plain, err := s.opener.Open(b.RecipientKeyID, account, b.RequestID, b.Sealed)
	switch {
	case errors.Is(err, seal.ErrWrongRecipient):
		return nil, badRequest("recipient_key_id", "the record is sealed to another public key; get the current one from /v1/public-key")
	case err != nil:
		return nil, badRequest("sealed", "it does not open: it was changed, or sealed for another account or request_id")
	}
	var record event.CustomerRecord
	if err := s.customers.Decode(plain, &record); err != nil {
		return nil, badRequest("sealed", "the sealed bytes are no CustomerRecord")
	}
	q := &identity.Request{Account: account, RequestID: b.RequestID, Kind: event.RequestKindUpsert, Record: record}
	if b.Delete {
		q.Kind, q.Record.Fields = event.RequestKindDelete, nil
	}
	return q, nil
}

// strictly refuses a record of which a field should identify somebody and does not, and one that identifies nobody.
func strictly(res *identity.Resolution) *problem {
	if res.Record.Kind == event.RecordKindDelete {
		return nil
	}
	for _, p := range res.Problems {
		return badRequest(p.Field, p.Reason)
	}
	if res.Identifiers == 0 {
		return badRequest("fields", "identify nobody; give a mail address, a telephone number or another identifier")
	}
	return nil
}
