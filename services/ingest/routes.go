package ingest

import (
	"context"
	_ "embed"
	"net/http"
	"strconv"
	"strings"
	"time"

	"databus/pkg/limits"
)

// A route is one operation of the API. A route without a scope is open to everybody and free.
type route struct {
	method, path string
	name         string // in metrics, and the operation's id in the document
	scope, pack  string
	limit        time.Duration
	handle       handler
}

// table lists all operations. The tests hold it against the OpenAPI document and against the table of authorisation.
func (a *api) table() []route {
	const base = "/v1/accounts/{account}"
	short, long := a.cfg.API.Timeout, a.cfg.API.BatchTimeout
	return []route{
		{http.MethodPost, base + "/records", "put", scopeWrite, packWrite, short, a.put},
		{http.MethodPost, base + "/records/batch", "batch", scopeWrite, packWrite, long, a.batch},
		{http.MethodDelete, base + "/records/{id}", "delete", scopeWrite, packWrite, short, a.delete},
		{http.MethodGet, base + "/records/{id}", "get", scopeRead, packLookup, short, a.lookup(a.byRecordID)},
		{http.MethodGet, base + "/persons/{id}", "person", scopeRead, packLookup, short, a.lookup(a.byPerson)},
		{http.MethodGet, base + "/fcids/{id}", "fcid", scopeRead, packLookup, short, a.lookup(a.byFCID)},
		{http.MethodGet, "/v1/public-key", "public-key", "", "", short, a.publicKey},
		{http.MethodGet, "/v1/openapi.json", "openapi", "", "", short, document},
	}
}

//go:embed openapi.json
var openAPI []byte

// document answers with the OpenAPI 3.1 document.
func document(w http.ResponseWriter, _ *http.Request, _ string) *problem {
	w.Header().Set("Content-Type", "application/vnd.oai.openapi+json;version=3.1")
	_, _ = w.Write(openAPI) // the client is gone if this fails
	return nil
}

func (a *api) routes() http.Handler {
	mux := http.NewServeMux()
	for _, r := range a.table() {
		mux.Handle(r.method+" "+r.path, a.route(r))
	}
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
func (a *api) route(op route) http.Handler {
	handle := http.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p := op.handle(w, r, r.PathValue("account")); p != nil {
			p.write(w)
		}
	}))
	if op.pack != "" {
		handle = limits.Guard{View: a.limits, Pack: func(*http.Request) string { return op.pack },
			Account: func(r *http.Request) string { return r.PathValue("account") }}.Wrap(handle)
	}
	return http.HandlerFunc(func(inner http.ResponseWriter, r *http.Request) {
		start, w := time.Now(), &answered{ResponseWriter: inner, status: http.StatusOK}
		defer func() {
			a.metrics.calls.WithLabelValues(op.name, strconv.Itoa(w.status)).Inc()
			a.metrics.seconds.WithLabelValues(op.name).Observe(time.Since(start).Seconds())
		}()
		// The server's own deadlines are for short calls. These lie behind the call's, which so ends with an answer.
		control := http.NewResponseController(inner)
		_ = control.SetReadDeadline(start.Add(op.limit + time.Second))
		_ = control.SetWriteDeadline(start.Add(op.limit + 10*time.Second))
		if op.scope != "" {
			if p := a.admit(r, r.PathValue("account"), op.scope); p != nil {
				p.write(w)
				return
			}
		}
		ctx, cancel := context.WithTimeout(r.Context(), op.limit)
		defer cancel()
		handle.ServeHTTP(w, r.WithContext(ctx))
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
