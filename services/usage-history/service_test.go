package usagehistory_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/follow"
	"databus/pkg/history/historytest"
	"databus/schemas"
	"databus/schemas/event"
	usagehistory "databus/services/usage-history"
)

// A request is answered behind one that is no request, which is a dead letter; a restart answers nothing again.
func TestRequests(t *testing.T) {
	w := historytest.New(t, 32)
	for i := range 10 {
		historytest.Send(w, schemas.UsageEvents, "acme", &event.UsageEvent{EventID: fmt.Sprint("id-", i%8), Account: "acme", Pack: "person", OccurredAt: time.Now().UTC(), Quantity: 1, Status: 200})
	}
	home := schemas.Partition(schemas.UsageEvents, []byte("acme"), schemas.MustLookup(schemas.UsageEvents).Partitions)
	if err := w.Client.ProduceSync(t.Context(), &kgo.Record{Topic: schemas.UsageBaselineRequests, Key: []byte("acme"), Value: []byte("no request")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	q := event.BaselineRequest{RequestID: "acme/*/total/1", Account: "acme", Pack: "*", Period: "total", PeriodStart: time.Unix(0, 0).UTC(), SeamPartition: home, SeamOffset: 9,
		WindowMicros: time.Hour.Microseconds(), SeamTime: time.Now().UTC()}
	historytest.Send(w, schemas.UsageBaselineRequests, "acme", &q)
	wrong := q
	wrong.Period = "week:1"
	historytest.Send(w, schemas.UsageBaselineRequests, "acme", &wrong)
	reasons := make(chan string, 10)
	f, err := follow.Topic(t.Context(), []kgo.Opt{kgo.SeedBrokers(w.Config.Kafka.Brokers...)}, schemas.UsageBaselineRequests+".dlq", func(rec *kgo.Record) {
		for _, h := range rec.Headers {
			if h.Key == "databus-dead-reason" {
				reasons <- string(h.Value)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	answers := historytest.Listen[event.Baseline](w, schemas.UsageBaselines, "acme")
	r := w.Start(usagehistory.Definition().Service(), nil)
	b := answers.Until(w, "the request is answered", func(b event.Baseline) bool { return b.RequestID == q.RequestID })
	if b.Matched != 8 || b.Events != 8 || b.Repeats != 1 || b.TakenBack != 0 || b.Estimated || b.SeamOffset != 9 || b.FirstOffset != 0 {
		t.Errorf("the answer is %+v", b)
	}
	for _, want := range []string{"topic usage.baseline-requests: undecodable: first byte is 110, not 0", "baseline request: the period is of an unknown kind"} {
		select {
		case got := <-reasons:
			if got != want {
				t.Errorf("a dead letter because %q, want %q", got, want)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("no dead letter: %s", want)
		}
	}
	committed := func() bool {
		offsets, err := w.Admin.FetchOffsets(t.Context(), usagehistory.Name)
		at, ok := offsets.Lookup(schemas.UsageBaselineRequests, home)
		return err == nil && ok && at.At == 3
	}
	w.Eventually("all three requests are committed", committed)
	r.Stop()
	w.Start(usagehistory.Definition().Service(), nil)
	last := q
	last.RequestID, last.SeamOffset = "acme/*/total/2", 10
	historytest.Send(w, schemas.UsageBaselineRequests, "acme", &last)
	answers.Until(w, "the next request is answered", func(b event.Baseline) bool { return b.RequestID == last.RequestID })
	if n := len(answers.All()); n != 2 {
		t.Errorf("%d answers to two requests", n)
	}
}
