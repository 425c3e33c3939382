package ingest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/client"
	"databus/schemas"
)

// A producer that holds no key: what it sends is sealed, what it is answered is what the API would have said, and a record
// that is sent again because ingest was away arrives once.
func TestProducer(t *testing.T) {
	r := newRig(t, nil)
	r.start()
	key, err := client.FetchKey(t.Context(), "http://"+r.service.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(t.Context(), client.Options{Kafka: []kgo.Opt{kgo.SeedBrokers(r.Config.Kafka.Brokers...), kgo.MetadataMinAge(50 * time.Millisecond), kgo.FetchMaxWait(100 * time.Millisecond)},
		Codec: r.Codec, Key: key, Resend: 300 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	api := r.put("acme", "api", "other", "anna@mail.example")
	got, err := c.Send(t.Context(), "acme", client.Record{RecordID: "r1", Fields: map[string]string{"email": "anna@mail.example"}})
	if err != nil || got.FCID != api.FCID || got.PersonID != api.PersonID || got.GraphVersion != api.GraphVersion || got.RequestID == "" {
		t.Errorf("%+v, %v; the API says %+v", got, err, api)
	}
	var refused *client.Refused
	if _, err := c.Send(t.Context(), "acme", client.Record{RecordID: "secret\n"}); !errors.As(err, &refused) || !strings.Contains(err.Error(), "record_id") || strings.Contains(err.Error(), "secret") {
		t.Errorf("a bad record: %v", err)
	}
	if _, err := c.Send(t.Context(), "a/b", client.Record{RecordID: "r"}); !errors.As(err, &refused) {
		t.Errorf("a bad account: %v", err)
	}
	if gone, err := c.Send(t.Context(), "acme", client.Record{RecordID: "r1", Delete: true}); err != nil || gone.FCID != "" {
		t.Errorf("a deletion: %+v, %v", gone, err)
	}

	// Ingest is away: records wait, and are sent again and again.
	r.stop()
	var wg sync.WaitGroup
	for i := range 30 {
		wg.Go(func() {
			a, err := c.Send(t.Context(), "acme", client.Record{RequestID: fmt.Sprint("away-", i), RecordID: fmt.Sprint("away-", i), Fields: map[string]string{"email": fmt.Sprintf("p%d@mail.example", i)}})
			if err != nil || a.PersonID == "" {
				t.Errorf("record %d: %+v, %v", i, a, err)
			}
		})
	}
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	if _, err := c.Send(short, "acme", client.Record{RecordID: "short"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a caller without patience: %v", err)
	}
	cancel()
	time.Sleep(time.Second)
	r.start()
	wg.Wait()
	r.groupAtEnd("ingest", schemas.IdentityRequests)
	r.groupAtEnd("ingest.applier.v1", schemas.DatabusRecords)
	r.modelled("v1", "model")
	sent, versions := 0, map[string]int64{}
	for _, rec := range r.read(schemas.IdentityRequests) {
		sent++
		if s := string(rec.Key) + string(rec.Value); strings.Contains(s, "mail.example") || strings.Contains(s, "secret") || len(rec.Key) != len("acme/00") {
			t.Errorf("a request shows what it holds: key %s", rec.Key)
		}
	}
	if sent < 60 {
		t.Errorf("%d requests: nothing was sent again", sent)
	}
	for i := range 30 {
		got := decode[found](t, r.call("GET", fmt.Sprint("/v1/accounts/acme/records/away-", i), "").body)
		versions[got.RecordID] = got.Version
	}
	if len(versions) != 30 {
		t.Errorf("%d records of 30 are there", len(versions))
	}
	waits := make(chan error, 1)
	r.stop()
	go func() {
		_, err := c.Send(context.Background(), "acme", client.Record{RecordID: "last"})
		waits <- err
	}()
	time.Sleep(50 * time.Millisecond)
	c.Close()
	if err := <-waits; !errors.Is(err, client.ErrClosed) {
		t.Errorf("a closed client: %v", err)
	}
}
