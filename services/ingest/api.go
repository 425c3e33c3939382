package ingest

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kadm"
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
	packWrite  = "resolve" // POST, DELETE: one a record, batch or not
)

// api is the HTTP front. It lives as long as Run.
type api struct {
	*Service
	producer *kgo.Client
	admin    *kadm.Client
	limits   *limits.View
	usage    *usage.Producer
	stopping context.Context // done when the service is asked to stop: no call should wait any longer than it must
}

// serveAPI serves the API until ctx is done and running calls have finished, then flushes what they produced.
func (s *Service) serveAPI(ctx context.Context) (err error) {
	check := s.env.Health.Register("api")
	a := &api{Service: s, stopping: ctx}
	// The front outlives ctx: calls that are running when the service is asked to stop are answered.
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	if a.producer, err = s.newProducer(); err != nil {
		return err
	}
	defer a.producer.Close()
	a.admin = kadm.NewClient(a.producer)
	if a.limits, err = s.limitsView(work); err != nil {
		return err
	}
	defer a.limits.Close()
	if a.usage, err = s.usageProducer(); err != nil {
		return err
	}
	if err := s.records.Ready(ctx); err != nil {
		_ = a.usage.Close(ctx) // it has nothing to send
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("preparing the API: %w", err)
	}
	s.env.Log.Info("serving", "api", s.listener.Addr().String())
	check.Set(true, "")
	context.AfterFunc(ctx, func() { check.Set(false, "stopping") })
	served := service.Serve(ctx, s.listener, a.routes(), s.env.DrainTimeout/2, s.env.Log)
	flush, stop := context.WithTimeout(work, s.env.DrainTimeout/4)
	defer stop()
	return errors.Join(served, a.usage.Close(flush))
}

// A handler answers, or returns the problem that is the answer.
type handler func(w http.ResponseWriter, r *http.Request, account string) *problem

func (a *api) routes() http.Handler {
	const base = "/v1/accounts/{account}"
	short, long := a.cfg.API.Timeout, a.cfg.API.BatchTimeout
	mux := http.NewServeMux()
	mux.Handle("POST "+base+"/records", a.route("put", scopeWrite, packWrite, short, a.put))
	mux.Handle("POST "+base+"/records/batch", a.route("batch", scopeWrite, packWrite, long, a.batch))
	mux.Handle("DELETE "+base+"/records/{id}", a.route("delete", scopeWrite, packWrite, short, a.delete))
	mux.Handle("GET "+base+"/records/{id}", a.route("get", scopeRead, packLookup, short, a.lookup(a.byRecordID)))
	mux.Handle("GET "+base+"/persons/{id}", a.route("person", scopeRead, packLookup, short, a.lookup(a.byPerson)))
	mux.Handle("GET "+base+"/fcids/{id}", a.route("fcid", scopeRead, packLookup, short, a.lookup(a.byFCID)))
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		(&problem{Status: http.StatusNotFound, Title: "there is no such path, or not with this method"}).write(w)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/v1/accounts//") { // the mux would send the caller to another path
			invalidAccount().write(w)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// route puts in front of a handler what all of them share: time, key, limits and metrics.
func (a *api) route(name, scope, pack string, limit time.Duration, h handler) http.Handler {
	guard := limits.Guard{View: a.limits, Pack: func(*http.Request) string { return pack },
		Account: func(r *http.Request) string { return r.PathValue("account") }}
	limited := guard.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p := h(w, r, r.PathValue("account")); p != nil {
			p.write(w)
		}
	}))
	return http.HandlerFunc(func(inner http.ResponseWriter, r *http.Request) {
		start, w := time.Now(), &answered{ResponseWriter: inner, status: http.StatusOK}
		defer func() {
			a.metrics.calls.WithLabelValues(name, strconv.Itoa(w.status)).Inc()
			a.metrics.seconds.WithLabelValues(name).Observe(time.Since(start).Seconds())
		}()
		// The server's own deadlines are for short calls. These lie behind the call's, which so ends with an answer.
		control := http.NewResponseController(inner)
		_ = control.SetReadDeadline(start.Add(limit + time.Second))
		_ = control.SetWriteDeadline(start.Add(limit + 10*time.Second))
		if p := a.admit(r, r.PathValue("account"), scope); p != nil {
			p.write(w)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), limit)
		defer cancel()
		limited.ServeHTTP(w, r.WithContext(ctx))
	})
}

// answered remembers the status for the metrics.
type answered struct {
	http.ResponseWriter
	status int
}

func (w *answered) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap leads http.ResponseController to the server's own.
func (w *answered) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func invalidAccount() *problem {
	return badRequest("account", "an account is 1 to 64 characters of [A-Za-z0-9._-]")
}

// admit says whether a call may go on: a valid account, and a known key with the scope.
func (a *api) admit(r *http.Request, account, scope string) *problem {
	if !schemas.ValidAccount(account) {
		return invalidAccount()
	}
	return a.keys.allow(r, account, scope)
}

// used emits the usage event of one record or look-up; it never blocks. An id is given where a repeat must not count
// twice.
func (a *api) used(id, account, pack, endpoint string, status int) {
	if id == "" {
		id = uuid.NewString()
	}
	a.usage.Emit(event.UsageEvent{EventID: id, Account: account, Pack: pack, Endpoint: endpoint, Status: int32(status), Quantity: 1, OccurredAt: time.Now()})
}

// usageID names the usage event of a record by its request, so that a request sent again, alone or in whatever batch,
// is the same event.
func usageID(account, request string) string {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(account)))
	sum := sha256.Sum256(append(append(b, account...), request...))
	return hex.EncodeToString(sum[:16])
}
