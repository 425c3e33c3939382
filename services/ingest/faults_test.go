package ingest

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"databus/pkg/history/historytest"
	"databus/schemas"
	"databus/schemas/event"
	"databus/services/ingest/client"
)

func TestLimits(t *testing.T) {
	r := newRig(t, nil)
	r.start()
	r.put("acme", "1", "a", "a@mail.example")
	body, more := newSlowBody()
	batch := make(chan string, 1)
	go func() { batch <- r.send("/v1/accounts/acme/records/batch", body) }()
	more <- `{"record_id":"a","request_id":"early","fields":{"email":"a@mail.example"}}` + "\n"
	r.Eventually("the batch's first record is there", func() bool { return len(r.records()) == 2 })
	end := time.Now().Add(time.Hour)
	historytest.Send(r.World, schemas.UsageLimits, "acme/resolve/month", &event.LimitState{
		Account: "acme", Pack: packWrite, Period: "month:2026-11", PeriodStart: time.Now().Add(-time.Hour), PeriodEnd: &end,
		Limit: 10, Used: 10, State: event.LimitLevelExceeded, UpdatedAt: time.Now()})
	r.Eventually("the limit holds", func() bool {
		return r.call("POST", "/v1/accounts/acme/records", `{"record_id":"b","request_id":"2"}`).status == http.StatusTooManyRequests
	})
	// The batch that runs is cut off at the limit.
	more <- `{"record_id":"a","request_id":"late","fields":{"email":"a@mail.example"}}` + "\n"
	close(more)
	if got := <-batch; strings.Count(got, "\n") != 2 || !strings.Contains(got, `"request_id":"early","status":200`) || !strings.Contains(got, `"status":429`) || !strings.Contains(got, "line 2 and the rest") {
		t.Errorf("batch: %s", got)
	}
	before := len(r.records())
	for _, path := range []string{"/records", "/records/batch"} {
		p := r.call("POST", "/v1/accounts/acme"+path, `{"record_id":"c","request_id":"3"}`)
		if p.status != http.StatusTooManyRequests || p.header.Get("RateLimit-Limit") != "10" || p.header.Get("RateLimit-Remaining") != "0" || p.header.Get("Retry-After") == "" {
			t.Errorf("%s: %d %v", path, p.status, p.header)
		}
		p.problem(t)
	}
	if n := len(r.records()); n != before {
		t.Errorf("%d records came behind the limit", n-before)
	}
	if p := r.call("GET", "/v1/accounts/acme/records/a", ""); p.status != http.StatusOK {
		t.Errorf("the other pack: %d %s", p.status, p.body)
	}
	c := client.Client{URL: "http://" + r.service.listener.Addr().String()}
	start := time.Now()
	var refused *client.Error
	if _, err := c.Put(t.Context(), "acme", client.Record{RecordID: "d"}, false); !errors.As(err, &refused) || refused.Status != 429 || refused.RetryAfter == 0 || time.Since(start) > 5*time.Second {
		t.Errorf("the client: %v after %v", err, time.Since(start))
	}
	r.put("other", "1", "a", "a@mail.example")
}

func TestKafkaAway(t *testing.T) {
	r := newRig(t, map[string]any{"api.timeout": "1s"})
	r.start()
	r.put("acme", "1", "a", "a@mail.example")
	r.kafka.Store(true)
	for _, path := range []string{"/records", "/records?wait=applied"} {
		p := r.call("POST", "/v1/accounts/acme"+path, `{"record_id":"b","request_id":"2","fields":{"email":"b@mail.example"}}`)
		if p.status != http.StatusServiceUnavailable || p.header.Get("Retry-After") == "" || !strings.Contains(p.problem(t).Detail, "same request_id") {
			t.Errorf("%s: %d %v %s", path, p.status, p.header, p.body)
		}
	}
	p := r.call("POST", "/v1/accounts/new/records/batch", `{"record_id":"c","request_id":"3"}`+"\n"+`{"record_id":"","request_id":"4"}`)
	if !strings.Contains(p.body, `"status":503`) || !strings.Contains(p.body, `"status":400`) || strings.Contains(p.body, `"status":200`) {
		t.Errorf("batch: %s", p.body)
	}
	// After some failures in a row calls are refused at once, with batches as a whole.
	for !r.away() {
		r.call("POST", "/v1/accounts/acme/records", `{"record_id":"x"}`)
	}
	for _, path := range []string{"/records", "/records/batch"} {
		start := time.Now()
		p := r.call("POST", "/v1/accounts/acme"+path, `{"record_id":"x"}`)
		if d := time.Since(start); p.status != http.StatusServiceUnavailable || p.header.Get("Retry-After") == "" || d > 900*time.Millisecond {
			t.Errorf("%s behind the breaker, after %v: %d %s", path, d, p.status, p.body)
		}
	}
	if p := r.call("GET", "/v1/accounts/acme/records/a", ""); p.status != http.StatusOK {
		t.Errorf("a look-up needs no Kafka: %d %s", p.status, p.body)
	}
	r.kafka.Store(false)
	c := client.Client{URL: "http://" + r.service.listener.Addr().String()}
	for i, account := range []string{"acme", "new"} {
		r.Eventually("with Kafka back a record of "+account+" is applied", func() bool {
			res, err := c.Put(t.Context(), account, client.Record{RequestID: fmt.Sprint(2 + i), RecordID: "b", Fields: map[string]string{"email": "b@mail.example"}}, true)
			if err != nil {
				t.Fatal(err)
			}
			return res.Applied
		})
	}
	r.Eventually("ready again", func() bool { return len(r.unready()) == 0 })
	r.stop()
	r.modelled("v1", "model")
}

func TestStoreAway(t *testing.T) {
	r := newRig(t, map[string]any{"api.timeout": "1s"})
	r.start()
	r.put("acme", "1", "a", "a@mail.example")
	r.store.fail(errors.New("no host answers"))
	for i := range 20 {
		p := r.call("POST", "/v1/accounts/acme/records", fmt.Sprintf(`{"record_id":"b%d","request_id":"b%d","fields":{"email":"b@mail.example"}}`, i, i))
		if p.status != http.StatusOK || p.result(t).FCID == "" {
			t.Fatalf("%d: %s", p.status, p.body)
		}
	}
	if p := r.call("POST", "/v1/accounts/acme/records?wait=applied", `{"record_id":"c","request_id":"c"}`); p.status != http.StatusAccepted || p.result(t).Applied {
		t.Errorf("waiting: %d %s", p.status, p.body)
	}
	for _, path := range []string{"/records/a", "/fcids/00000000000000000000000000000000"} {
		if p := r.call("GET", "/v1/accounts/acme"+path, ""); p.status != http.StatusServiceUnavailable || p.header.Get("Retry-After") == "" || !strings.Contains(p.problem(t).Detail, "database") {
			t.Errorf("%s: %d %s", path, p.status, p.body)
		}
	}
	// Readiness says so, and does not take it back between two attempts.
	r.Eventually("not ready", func() bool { return strings.Contains(r.unready()["applier/v1"], "no host answers") })
	for range 40 {
		if !strings.Contains(r.unready()["applier/v1"], "no host answers") {
			t.Fatalf("unready: %v", r.unready())
		}
		time.Sleep(10 * time.Millisecond)
	}
	r.store.fail(nil)
	r.Eventually("ready again", func() bool { return len(r.unready()) == 0 })
	r.put("acme", "d", "d", "d@mail.example")
	r.groupAtEnd("ingest.applier.v1", schemas.DatabusRecords)
	r.modelled("v1", "model")
}

// Asked to stop, the API answers what it has read of a batch and says where it stopped, and a call that waits for the
// applier gets its answer.
func TestStopInTheMiddle(t *testing.T) {
	r := newRig(t, nil)
	r.start()
	first := r.put("acme", "1", "a", "a@mail.example")
	r.store.fail(errors.New("no host answers"))
	waits := make(chan reply, 1)
	go func() {
		waits <- r.call("POST", "/v1/accounts/acme/records?wait=applied", `{"record_id":"b","request_id":"2"}`)
	}()
	body, send := newSlowBody()
	batch := make(chan string, 1)
	go func() { batch <- r.send("/v1/accounts/acme/records/batch", body) }()
	send <- `{"record_id":"c","request_id":"3","fields":{"email":"a@mail.example"}}` + "\n"
	r.Eventually("both are on the Databus", func() bool { return len(r.records()) == 3 })
	start := time.Now()
	r.stop()
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("stopping took %v", d)
	}
	if p := <-waits; p.status != http.StatusAccepted {
		t.Errorf("the call that waited: %d %s", p.status, p.body)
	}
	got := <-batch
	if !strings.Contains(got, `"request_id":"3","status":200,"fcid":"`+first.FCID) || !strings.Contains(got, `"status":503`) || !strings.Contains(got, "the service is stopping; line 2") {
		t.Errorf("the batch: %s", got)
	}
	close(send)
	r.store.fail(nil)
	r.start()
	r.groupAtEnd("ingest.applier.v1", schemas.DatabusRecords)
	r.modelled("v1", "model")
}

// away says whether the API refuses records at once.
func (r *rig) away() bool { return testutil.ToFloat64(r.service.metrics.kafkaAway) == 1 }
