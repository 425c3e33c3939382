package ingest

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/google/uuid"

	"databus/pkg/graph"
	"databus/pkg/identity"
)

// A found record is what a look-up returns.
type found struct {
	RecordID string            `json:"record_id"`
	FCID     string            `json:"fcid"`
	PersonID string            `json:"person_id"`
	Version  int64             `json:"version"`
	Fields   map[string]string `json:"fields"`
}

// foundList is what a look-up of a person returns.
type foundList struct {
	Records []found `json:"records"`
	// Truncated says that there are more than the service returns.
	Truncated bool `json:"truncated,omitempty"`
}

// A finder reads an account's rows by one of the three keys. The second value is the answer's form: one record or a list.
type finder func(ctx context.Context, store identity.Store, account, id string) (rows []identity.Row, one bool, err error)

func (a *api) byRecordID(ctx context.Context, store identity.Store, account, id string) ([]identity.Row, bool, error) {
	row, ok, err := store.Get(ctx, account, a.resolver.RecordKey(account, id))
	if err != nil || !ok || row.Deleted {
		return nil, true, err
	}
	return []identity.Row{row}, true, nil
}

func (a *api) byPerson(ctx context.Context, store identity.Store, account, id string) ([]identity.Row, bool, error) {
	person, err := uuid.Parse(id)
	if err != nil {
		return nil, false, badRequest("id", "a PersonID is a UUID")
	}
	rows, err := store.ByPerson(ctx, account, person.String(), a.cfg.API.LookupLimit+1)
	return rows, false, err
}

// byFCID returns the account's own records only: an FCID spans accounts.
func (a *api) byFCID(ctx context.Context, store identity.Store, account, id string) ([]identity.Row, bool, error) {
	fcid, err := graph.ParseFCID(id)
	if err != nil {
		return nil, false, badRequest("id", "an FCID is 32 hex digits")
	}
	// The account's PersonID of an FCID is a function of it, and leads to the account's rows alone.
	rows, err := store.ByPerson(ctx, account, a.resolver.PersonID(account, fcid), a.cfg.API.LookupLimit+1)
	return rows, false, err
}

// lookup answers a GET from the serving database.
func (a *api) lookup(find finder) handler {
	return func(w http.ResponseWriter, r *http.Request, account string) *problem {
		body, p := a.answer(r, account, find)
		switch {
		case p == nil:
			a.used("", account, packLookup, r.Pattern, http.StatusOK)
		case p.Status == http.StatusNotFound:
			a.used("", account, packLookup, r.Pattern, http.StatusNotFound)
			return p
		default:
			return p
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(body) // the client is gone if this fails
		return nil
	}
}

func (a *api) answer(r *http.Request, account string, find finder) (any, *problem) {
	ctx := r.Context()
	now, err := a.serving()
	if err != nil {
		return nil, a.failed("looking up", err, noAnswer)
	}
	rows, one, err := find(ctx, now.store, account, r.PathValue("id"))
	if err != nil {
		return nil, a.failed("looking up in "+now.db.Keyspace, err, noAnswer)
	}
	list := foundList{Records: make([]found, 0, len(rows))}
	if len(rows) > a.cfg.API.LookupLimit {
		rows, list.Truncated = rows[:a.cfg.API.LookupLimit], true
	}
	for i := range rows {
		payload, err := a.resolver.Payload(ctx, rows[i].Record())
		if identity.IsDead(err) {
			continue // shredded: nobody can read it any more
		}
		if err != nil {
			return nil, a.failed("opening what was found", err, "the record's key is not known yet")
		}
		list.Records = append(list.Records, found{RecordID: payload.RecordID, FCID: rows[i].FCID, PersonID: rows[i].PersonID, Version: rows[i].Version, Fields: payload.Fields})
	}
	switch {
	case len(list.Records) == 0:
		return nil, &problem{Status: http.StatusNotFound, Title: "nothing was found"}
	case one:
		return list.Records[0], nil
	}
	return list, nil
}
