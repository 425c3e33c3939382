package usagehistory

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"databus/schemas/event"
)

// fakeDruid answers as Druid's SQL API is documented: POST /druid/v2/sql with a JSON body of query, parameters, context and
// resultFormat; rows as an array of objects; errors as JSON with a kind and a message.
func fakeDruid(t *testing.T, answer func(w http.ResponseWriter, r *http.Request, q query)) *druid {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q query
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil || r.Method != http.MethodPost || r.URL.Path != "/druid/v2/sql" || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("Druid was asked %s %s: %v", r.Method, r.URL.Path, err)
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		answer(w, r, q)
	}))
	t.Cleanup(s.Close)
	cfg := Default().Druid
	cfg.URL, cfg.User, cfg.Password = s.URL+"/", "databus", "secret"
	return newDruid(cfg)
}

func druidRequest() *event.BaselineRequest {
	end := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	return &event.BaselineRequest{RequestID: "acme/person/month:2026-11/1", Account: "acme", Pack: "person", Period: "month:2026-11",
		PeriodStart: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC), PeriodEnd: &end, SeamPartition: 3, SeamOffset: 42, SeamTime: time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)}
}

func TestDruidCounts(t *testing.T) {
	d := fakeDruid(t, func(w http.ResponseWriter, r *http.Request, q query) {
		if user, password, ok := r.BasicAuth(); !ok || user != "databus" || password != "secret" {
			t.Error("no credentials")
		}
		if strings.Count(q.Query, "?") != len(q.Parameters) || strings.Contains(q.Query, "acme") || q.ResultFormat != "object" || q.Context["sqlTimeZone"] != "UTC" {
			t.Errorf("the query is %+v", q)
		}
		if got := fmt.Sprint(q.Parameters); got != "[{BIGINT 1.7934912e+12} {BIGINT 1.7951328e+12} {VARCHAR acme} {VARCHAR person}]" {
			t.Errorf("the parameters are %s", got)
		}
		_, _ = io.WriteString(w, `[{"matched":0,"provider":null,"quantity":4,"amount":null},{"matched":1,"provider":null,"quantity":10,"amount":70},`+
			`{"matched":0,"provider":"p1","quantity":1,"amount":0},{"matched":1,"provider":"p1","quantity":5.0,"amount":30}]`+"\n")
	})
	out, err := d.answer(t.Context(), []*event.BaselineRequest{druidRequest()})
	if err != nil || len(out) != 1 || out[0].answer == nil {
		t.Fatalf("%+v, %v", out, err)
	}
	b := out[0].answer
	if b.Matched != 15 || b.Unmatched != 5 || b.AmountMicros != 100 || !b.Estimated || b.FirstOffset != -1 || b.SeamOffset != 42 || b.SeamPartition != 3 ||
		fmt.Sprint(b.Providers) != "[{p1 5 1 30}]" {
		t.Errorf("the answer is %+v", b)
	}
}

func TestDruidFails(t *testing.T) {
	say := func(status int, body string) func(http.ResponseWriter, *http.Request, query) {
		return func(w http.ResponseWriter, _ *http.Request, _ query) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	for _, c := range []struct {
		name   string
		answer func(http.ResponseWriter, *http.Request, query)
		want   string
	}{
		{"parse error", say(400, `{"error":"druidException","errorCode":"invalidInput","persona":"USER","category":"INVALID_INPUT","errorMessage":"Column 'acme' not found"}`), "status 400, druidException, invalidInput; check druid.url, druid.datasource and druid.columns"},
		{"unauthorized", say(401, ""), "status 401; check druid.user"},
		{"forbidden", say(403, `{"error":"Unauthorized"}`), "status 403, Unauthorized; check"},
		{"too many", say(429, `{"error":"Query capacity exceeded","errorMessage":"Too many concurrent queries","errorClass":"org.apache.druid.query.QueryCapacityExceededException"}`), "status 429, Query capacity exceeded, org.apache"},
		{"unplannable", say(500, `{"error":"Unknown exception","errorMessage":"acme","errorClass":"java.lang.RuntimeException","host":null}`), "status 500, Unknown exception, java.lang.RuntimeException"},
		{"no broker", say(503, "no server available"), "status 503"},
		{"query timeout", say(504, `{"error":"Query timeout"}`), "status 504, Query timeout"},
		{"redirect", func(w http.ResponseWriter, r *http.Request, _ query) {
			http.Redirect(w, r, "http://elsewhere.invalid/", http.StatusFound)
		}, "status 302"},
		{"not JSON", say(200, "<html>"), "not the array of rows"},
		{"other rows", say(200, `{"rows":[]}`), "not the array of rows"},
		{"broken off", say(200, `[{"matched":1,"provider":null,"quantity":10,"amount":70},`), "not the array of rows"},
		{"halves", say(200, `[{"matched":1,"provider":null,"quantity":1.5,"amount":70}]`), "no whole number"},
		{"too long", say(200, "["+strings.Repeat(" ", 5<<20)+"]"), "longer than druid.max_bytes"},
		{"cut", func(w http.ResponseWriter, _ *http.Request, _ query) {
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, "[]")
		}, "reading Druid's answer"},
		{"silence", func(_ http.ResponseWriter, r *http.Request, _ query) { <-r.Context().Done() }, "asking Druid"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := fakeDruid(t, c.answer)
			if c.name == "silence" {
				d.client.Timeout = 100 * time.Millisecond
			}
			out, err := d.answer(t.Context(), []*event.BaselineRequest{druidRequest()})
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "acme") || strings.Contains(err.Error(), "secret") {
				t.Errorf("%+v, %v, want %q", out, err, c.want)
			}
		})
	}
}

func TestDruidAnswersWhatItCan(t *testing.T) {
	n := 0
	d := fakeDruid(t, func(w http.ResponseWriter, _ *http.Request, _ query) {
		if n++; n == 2 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, "[]")
	})
	out, err := d.answer(t.Context(), []*event.BaselineRequest{druidRequest(), druidRequest(), druidRequest()})
	if err != nil || out[0].answer == nil || out[1].answer != nil || out[1].wait.IsZero() || out[2].wait.IsZero() || n != 2 {
		t.Errorf("%d queries, %+v, %v", n, out, err)
	}
}

func TestDruidSumsHaveRoom(t *testing.T) {
	d := fakeDruid(t, func(w http.ResponseWriter, _ *http.Request, _ query) {
		_, _ = io.WriteString(w, `[{"matched":1,"provider":"a","quantity":2000000000000000000,"amount":0},{"matched":1,"provider":"b","quantity":2000000000000000000,"amount":0}]`)
	})
	out, err := d.answer(t.Context(), []*event.BaselineRequest{druidRequest()})
	if err != nil || out[0].answer != nil || out[0].refused == "" {
		t.Errorf("%+v, %v", out, err)
	}
}
