package service

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func TestHealthEndpoints(t *testing.T) {
	h := NewHealth()
	reg := prometheus.NewRegistry()
	newKafkaMetrics(prometheus.WrapRegistererWith(prometheus.Labels{"service": "a"}, reg)).disconnects.Inc()
	newKafkaMetrics(prometheus.WrapRegistererWith(prometheus.Labels{"service": "b"}, reg)) // the same names, another service
	srv := httptest.NewServer(adminHandler(reg, h, false))
	defer srv.Close()
	get := func(path string) (int, string) {
		t.Helper()
		resp, err := http.Get(srv.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b)
	}
	first, second := h.Group("ingest").Register("loop"), h.Group("limiter").Register("loop")
	first.Set(true, "")
	code, body := get("/readyz")
	var answer struct {
		Ready  bool
		Checks []State
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		t.Fatal(err)
	}
	if code != 503 || answer.Ready || len(answer.Checks) != 2 ||
		answer.Checks[0] != (State{"ingest/loop", true, ""}) || answer.Checks[1] != (State{"limiter/loop", false, "starting"}) {
		t.Errorf("%d %s", code, body)
	}
	second.Set(true, "")
	if code, body := get("/readyz"); code != 200 || !strings.Contains(body, `"ready":true`) {
		t.Errorf("%d %s", code, body)
	}
	ready := false
	h.Ask("asked", func() (bool, string) { return ready, "because" })
	if code, body := get("/readyz"); code != 503 || !strings.Contains(body, "because") {
		t.Errorf("%d %s", code, body)
	}
	if code, _ := get("/healthz"); code != 200 {
		t.Errorf("a process that is not ready is not alive: %d", code)
	}
	h.Remove("asked")
	if code, _ := get("/readyz"); code != 200 {
		t.Errorf("%d", code)
	}
	if code, body := get("/metrics"); code != 200 || !strings.Contains(body, `databus_kafka_disconnects_total{service="a"} 1`) {
		t.Errorf("%d %s", code, body)
	}
}

func TestProgress(t *testing.T) {
	now := time.Unix(0, 0)
	p := NewProgress(time.Minute, func() time.Time { return now })
	expect := func(step string, ready bool, reason string) {
		t.Helper()
		if r, why := p.Ready(); r != ready || !strings.Contains(why, reason) {
			t.Errorf("%s: ready %v, %q", step, r, why)
		}
	}
	expect("before the assignment", false, "no partitions assigned")
	p.Assigned("t", 0, 1)
	expect("assigned", false, "restoring: t/0, t/1")
	p.Restored("t", 0)
	expect("half restored", false, "restoring: t/1")
	p.Restored("t", 1)
	expect("restored", true, "")

	p.Observe("t", 0, 10, 10)
	p.Observe("t", 1, 5, 5)
	now = now.Add(time.Hour)
	expect("idle for an hour", true, "")
	p.Observe("t", 0, 10, 11)
	expect("a record after an hour of idleness", true, "")
	now = now.Add(59 * time.Second)
	p.Observe("t", 0, 10, 500)
	expect("lag for 59 s", true, "")
	now = now.Add(time.Second)
	expect("lag for 60 s", false, "stuck: t/0 at offset 10 of 500 for 1m0s")
	if lag := p.Lag(); lag != 490 {
		t.Errorf("lag %d", lag)
	}
	p.Observe("t", 0, 11, 500)
	expect("moved by one", true, "")
	for range 10 { // slow but moving, for much longer than the limit
		now = now.Add(50 * time.Second)
		p.Observe("t", 0, p.partitions[topicPartition{"t", 0}].position+1, 600)
	}
	expect("slow", true, "")
	now = now.Add(time.Minute)
	expect("stuck again", false, "stuck")
	p.Revoked("t", 0)
	expect("somebody else's now", true, "")
	p.Observe("t", 0, 1, 900)
	now = now.Add(time.Hour)
	expect("no longer watched", true, "")
	// The position goes back when a batch is dropped and read again: that is a move.
	p.Observe("t", 1, 5, 9)
	now = now.Add(50 * time.Second)
	p.Observe("t", 1, 4, 9)
	now = now.Add(50 * time.Second)
	expect("rewound", true, "")

	none := NewProgress(time.Minute, nil)
	none.Assigned("t")
	if ready, why := none.Ready(); !ready {
		t.Error("a spare consumer without partitions is not ready:", why)
	}
}
