package usage

import (
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"databus/schemas/event"
)

func TestMeter(t *testing.T) {
	p := &Producer{queue: make(chan event.UsageEvent, 100), dropped: prometheus.NewCounter(prometheus.CounterOpts{Name: "dropped"})}
	m := Meter{Producer: p, Account: func(r *http.Request) string { return r.Header.Get("Account") }, Pack: func(*http.Request) string { return "person" },
		EventID: func(r *http.Request) string { return r.Header.Get("Idempotency-Key") }}
	mux := http.NewServeMux()
	mux.Handle("GET /v1/{status}", m.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if status, _ := strconv.Atoi(r.PathValue("status")); status != 0 {
			w.WriteHeader(status)
		}
		_, _ = w.Write([]byte("answer"))
		if err := http.NewResponseController(w).Flush(); err != nil {
			t.Error(err)
		}
	})))
	call := func(path, account, id string) *event.UsageEvent {
		req := httptest.NewRequest("GET", path, nil)
		req.Header.Set("Account", account)
		req.Header.Set("Idempotency-Key", id)
		mux.ServeHTTP(httptest.NewRecorder(), req)
		select {
		case e := <-p.queue:
			return &e
		default:
			return nil
		}
	}
	for path, want := range map[string]int32{"/v1/200": 200, "/v1/201": 200, "/v1/0": 200, "/v1/404": 404, "/v1/429": 0, "/v1/500": 0, "/v1/302": 0} {
		e := call(path, "acme", "k")
		switch {
		case e == nil && want != 0:
			t.Errorf("%s makes no event", path)
		case e != nil && (e.Status != want || e.Account != "acme" || e.Pack != "person" || e.Quantity != 1 || e.EventID != "k" || e.Endpoint != "GET /v1/{status}" || e.OccurredAt.IsZero()):
			t.Errorf("%s: %+v", path, e)
		}
	}
	if e := call("/v1/200", "", "k"); e != nil {
		t.Errorf("nobody's call: %+v", e)
	}
	if a, b := call("/v1/200", "acme", ""), call("/v1/200", "acme", ""); a == nil || b == nil || a.EventID == "" || a.EventID == b.EventID {
		t.Errorf("random ids: %+v, %+v", a, b)
	}
	p.closed = true
	if call("/v1/200", "acme", "k") != nil {
		t.Error("a closed producer took an event")
	}
}
