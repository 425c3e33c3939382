package ingest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/identity"
	"databus/schemas"
)

// A putResult is the answer to one record.
type putResult struct {
	RequestID    string   `json:"request_id"`
	Status       int      `json:"status"`
	FCID         string   `json:"fcid,omitempty"`
	PersonID     string   `json:"person_id,omitempty"`
	GraphVersion string   `json:"graph_version,omitempty"`
	Partition    int32    `json:"partition"`
	Offset       int64    `json:"offset"`
	Applied      bool     `json:"applied,omitempty"`
	Problem      string   `json:"problem,omitempty"`
	Field        string   `json:"field,omitempty"`
	Warnings     []string `json:"warnings,omitempty"`
}

// A pending record has been given to the producer; done receives once, also when nobody waits any more.
type pending struct {
	result putResult
	key    string // of the record in the database
	done   chan placed
	until  time.Time // how long to wait for the acknowledgement; zero where it is there already
}

// placed is the producer's answer: where the record stands on databus.records.
type placed struct {
	partition int32
	offset    int64
	err       error
}

// send resolves and seals one request and gives it to the producer, which answers on done.
func (a *api) send(ctx context.Context, q *identity.Request, strict bool) (*pending, error) {
	now, err := a.resolving(ctx)
	if err != nil {
		return nil, err
	}
	res, err := a.resolver.Resolve(ctx, now.graph, q)
	if err != nil {
		return nil, err
	}
	if strict {
		if p := strictly(res); p != nil {
			return nil, p
		}
	}
	value, err := a.records.Encode(ctx, &res.Record)
	if err != nil {
		return nil, err
	}
	if !a.breaker.allow() {
		return nil, errKafkaAway
	}
	p := &pending{key: res.Record.RecordKey, done: make(chan placed, 1), until: time.Now().Add(a.cfg.API.Timeout), result: putResult{
		RequestID: q.RequestID, FCID: res.FCID, PersonID: res.PersonID, GraphVersion: now.db.GraphVersion, Status: http.StatusOK}}
	for _, w := range res.Problems {
		p.result.Warnings = append(p.result.Warnings, w.String())
	}
	a.producer.Produce(ctx, &kgo.Record{Topic: schemas.DatabusRecords, Key: []byte(res.Key()), Value: value}, func(r *kgo.Record, err error) {
		if err != nil {
			err = fmt.Errorf("producing to %s: %w", r.Topic, err)
		}
		if err == nil {
			a.breaker.report(true)
		}
		p.done <- placed{r.Partition, r.Offset, err}
	})
	return p, nil
}

// acknowledged waits for the producer's answer. An idempotent producer keeps a record whose outcome it does not know for
// as long as Kafka is away, so the time of a single call is a second bound, in batches too: then nothing is known, and nothing
// is acknowledged.
func (p *pending) acknowledged(ctx context.Context) error {
	var at placed
	select {
	case at = <-p.done:
	default:
		ctx, cancel := context.WithDeadline(ctx, p.until)
		defer cancel()
		select {
		case at = <-p.done:
		case <-ctx.Done():
			return fmt.Errorf("producing to %s: %w", schemas.DatabusRecords, ctx.Err())
		}
	}
	if at.err != nil {
		return at.err
	}
	p.result.Partition, p.result.Offset = at.partition, at.offset
	return nil
}

// put handles POST of a single record.
func (a *api) put(w http.ResponseWriter, r *http.Request, account string) *problem {
	var body putBody
	if p := a.readBody(w, r, &body); p != nil {
		return p
	}
	if body.RequestID == "" {
		body.RequestID = r.Header.Get("Idempotency-Key")
	}
	return a.putOne(w, r, account, &body)
}

// delete handles DELETE of a record.
func (a *api) delete(w http.ResponseWriter, r *http.Request, account string) *problem {
	return a.putOne(w, r, account, &putBody{RecordID: r.PathValue("id"), RequestID: r.Header.Get("Idempotency-Key"), Delete: true})
}

// strict says whether a call wants records refused that identify less than they should.
func (a *api) strict(r *http.Request) (bool, *problem) {
	switch r.URL.Query().Get("strict") {
	case "":
		return a.cfg.API.Strict, nil
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, badRequest("strict", "is neither true nor false")
}

// notAcknowledged tells the breaker of a record that was sent, unless it is the caller's fault or wish.
func (a *api) notAcknowledged(err error) {
	if _, fault := problemOf(err, notAcknowledged); fault {
		a.breaker.report(false)
	}
}

func (a *api) putOne(w http.ResponseWriter, r *http.Request, account string, body *putBody) *problem {
	q, p := a.request(account, body)
	if p != nil {
		return p
	}
	strict, p := a.strict(r)
	if p != nil {
		return p
	}
	sent, err := a.send(r.Context(), q, strict)
	if err == nil {
		if err = sent.acknowledged(r.Context()); err != nil {
			a.notAcknowledged(err)
		}
	}
	if err == nil {
		err = a.at(PointAcknowledged)
	}
	if err != nil {
		return a.failed("writing a record", err, notAcknowledged)
	}
	a.used(usageID(account, sent.result.RequestID), account, packWrite, r.Pattern, http.StatusOK)
	if r.URL.Query().Get("wait") == "applied" {
		if sent.result.Applied = a.awaitApplied(r.Context(), account, sent); !sent.result.Applied {
			sent.result.Status = http.StatusAccepted
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(sent.result.Status)
	_ = json.NewEncoder(w).Encode(&sent.result) // the record is on the Databus whether the client reads this or not
	return nil
}

// awaitApplied waits until the serving database has taken the record in, as a version or as a repeat. It gives up when
// the call's time is over and when the service is asked to stop.
func (a *api) awaitApplied(ctx context.Context, account string, p *pending) bool {
	for pause := 2 * time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		if now, err := a.serving(); err == nil {
			// Asking the group costs a call to a broker, so the row, which tells of everything but repeats, comes first.
			if a.rowReached(ctx, now, account, p) || pause > 10*time.Millisecond && a.groupReached(ctx, now, p) {
				return true
			}
		}
		select {
		case <-ctx.Done():
			return false
		case <-a.stopping.Done():
			return false
		case <-time.After(pause):
		}
	}
}

// rowReached says whether the record's row is this version or a later one.
func (a *api) rowReached(ctx context.Context, now *served, account string, p *pending) bool {
	version, err := identity.Version(now.db.Epoch, p.result.Offset)
	if err != nil {
		return false
	}
	row, ok, err := now.store.Get(ctx, account, p.key)
	return err == nil && ok && row.Version >= version
}

// groupReached says whether the database's applier has committed an offset behind the record: a repeat never becomes the
// stored version.
func (a *api) groupReached(ctx context.Context, now *served, p *pending) bool {
	offsets, err := a.admin.FetchOffsetsForTopics(ctx, now.db.ApplierGroup, schemas.DatabusRecords)
	if err != nil {
		return false
	}
	at, ok := offsets.Lookup(schemas.DatabusRecords, p.result.Partition)
	return ok && at.Err == nil && at.At > p.result.Offset
}
