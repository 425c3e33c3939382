package ingest

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

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
	if _, err := uuid.Parse(id); err != nil {
		return nil, false, badRequest("id", "a PersonID is a UUID")
	}
	rows, err := store.ByPerson(ctx, account, id, a.cfg.API.LookupLimit)
	return rows, false, err
}

// byFCID returns the account's own records only: an FCID spans accounts.
func (a *api) byFCID(ctx context.Context, store identity.Store, account, id string) ([]identity.Row, bool, error) {
	fcid, err := graph.ParseFCID(id)
	if err != nil {
		return nil, false, badRequest("id", "an FCID is 32 hex digits")
	}
	// The account's PersonID of an FCID is a function of it, and leads to the account's rows alone.
	rows, err := store.ByPerson(ctx, account, a.resolver.PersonID(account, fcid), a.cfg.API.LookupLimit)
	return rows, false, err
}

// lookup answers a GET from the serving database.
func (a *api) lookup(find finder) func(http.ResponseWriter, *http.Request, string) {
	return func(w http.ResponseWriter, r *http.Request, account string) {
		status, body, p := a.answer(r, account, find)
		if p != nil {
			p.write(w)
			status = p.Status
		} else {
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(body) // the client is gone if this fails
		}
		if status == http.StatusOK || status == http.StatusNotFound {
			a.used("", account, packLookup, r.Pattern, status, 1)
		}
		a.metrics.calls.WithLabelValues("get", strconv.Itoa(status)).Inc()
	}
}

func (a *api) answer(r *http.Request, account string, find finder) (int, any, *problem) {
	ctx := r.Context()
	db, _, err := a.serving(ctx)
	if err != nil {
		return 0, nil, a.failed(err)
	}
	store, err := a.stores.Keyspace(db.Keyspace)
	if err != nil {
		return 0, nil, a.failed(err)
	}
	rows, one, err := find(ctx, store, account, r.PathValue("id"))
	if err != nil {
		var p *problem
		if errors.As(err, &p) {
			return 0, nil, p
		}
		a.env.Log.Warn("look-up failed", "keyspace", db.Keyspace, "error", err)
		return 0, nil, unavailable("the database does not answer")
	}
	records := make([]found, 0, len(rows))
	for i := range rows {
		payload, err := a.resolver.Payload(ctx, rows[i].Record())
		if identity.IsDead(err) {
			continue // shredded: nobody can read it any more
		}
		if err != nil {
			return 0, nil, a.failed(err)
		}
		records = append(records, found{RecordID: payload.RecordID, FCID: rows[i].FCID, PersonID: rows[i].PersonID, Version: rows[i].Version, Fields: payload.Fields})
	}
	if len(records) == 0 {
		return 0, nil, &problem{Status: http.StatusNotFound, Title: "nothing was found"}
	}
	if one {
		return http.StatusOK, records[0], nil
	}
	return http.StatusOK, map[string]any{"records": records}, nil
}
