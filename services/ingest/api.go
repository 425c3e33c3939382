package ingest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/limits"
	"databus/pkg/service"
	"databus/pkg/usage"
	"databus/schemas"
	"databus/schemas/event"
)

// Data packs under which the API's own calls are counted.
const (
	packLookup = "lookup"  // GET: status 200 where something was found, else 404
	packWrite  = "resolve" // POST, DELETE: one a record
)

// api is the HTTP front. It lives as long as Run.
type api struct {
	*Service
	keys     *apiKeys
	producer *kgo.Client
	limits   *limits.View
	usage    *usage.Producer
}

// serveAPI serves the API until ctx is done and running calls have finished, then flushes what they produced.
func (s *Service) serveAPI(ctx context.Context) error {
	keys, err := loadAPIKeys(s.cfg.API.KeysFile)
	if err != nil {
		return err
	}
	a := &api{Service: s, keys: keys}
	// The front outlives ctx: calls that are running when the service is asked to stop are answered.
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	if a.producer, err = s.newProducer(); err != nil {
		return err
	}
	defer a.producer.Close()
	if a.limits, err = s.limitsView(work); err != nil {
		return err
	}
	defer a.limits.Close()
	if a.usage, err = s.usageProducer(); err != nil {
		return err
	}
	if err := s.records.Ready(work); err != nil {
		return fmt.Errorf("preparing the API: %w", err)
	}
	s.env.Log.Info("serving", "api", s.listener.Addr().String())
	served := service.Serve(ctx, s.listener, a.routes(), s.drainTimeout(), s.env.Log)
	flush, stop := context.WithTimeout(work, s.drainTimeout())
	defer stop()
	return errors.Join(served, a.usage.Close(flush))
}

func (a *api) routes() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern, route, scope, pack string, limit time.Duration, h func(http.ResponseWriter, *http.Request, string)) {
		guard := limits.Guard{View: a.limits, Pack: func(*http.Request) string { return pack },
			Account: func(r *http.Request) string { return r.PathValue("account") }}
		limited := guard.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h(w, r, r.PathValue("account")) }))
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			start := time.Now()
			if p := a.admit(r, r.PathValue("account"), scope); p != nil {
				p.write(w)
				a.metrics.calls.WithLabelValues(route, strconv.Itoa(p.Status)).Inc()
				return
			}
			ctx, cancel := context.WithTimeout(r.Context(), limit)
			defer cancel()
			limited.ServeHTTP(w, r.WithContext(ctx))
			a.metrics.seconds.WithLabelValues(route).Observe(time.Since(start).Seconds())
		})
	}
	const base = "/v1/accounts/{account}"
	handle("POST "+base+"/records", "put", scopeWrite, packWrite, a.cfg.API.Timeout, a.put)
	handle("POST "+base+"/records/batch", "batch", scopeWrite, packWrite, a.cfg.API.BatchTimeout, a.batch)
	handle("DELETE "+base+"/records/{id}", "delete", scopeWrite, packWrite, a.cfg.API.Timeout, a.delete)
	handle("GET "+base+"/records/{id}", "get", scopeRead, packLookup, a.cfg.API.Timeout, a.lookup(a.byRecordID))
	handle("GET "+base+"/persons/{id}", "person", scopeRead, packLookup, a.cfg.API.Timeout, a.lookup(a.byPerson))
	handle("GET "+base+"/fcids/{id}", "fcid", scopeRead, packLookup, a.cfg.API.Timeout, a.lookup(a.byFCID))
	return mux
}

// admit says whether a call may go on: a known key with the scope.
func (a *api) admit(r *http.Request, account, scope string) *problem {
	if !schemas.ValidAccount(account) {
		return badRequest("account", "an account is 1 to 64 characters of [A-Za-z0-9._-]")
	}
	return a.keys.allow(r, account, scope)
}

// used emits the usage event of a call; it never blocks. An id is given where a repeated call must not count twice.
func (a *api) used(id, account, pack, endpoint string, status int, n int64) {
	if id == "" {
		id = uuid.NewString()
	}
	a.usage.Emit(event.UsageEvent{EventID: id, Account: account, Pack: pack, Endpoint: endpoint, Status: int32(status), Quantity: n, OccurredAt: time.Now()})
}
