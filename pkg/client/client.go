// Package client is for producers in Go: it seals customers' records to ingest's public key, sends them over
// identity.requests, and returns the answers of identity.resolutions. A producer holds no key that opens anything.
//
// Promise: a record that was answered is on the Databus, or was refused for a reason that sending it again does not cure.
// While no answer comes the record is sent again under the same request id, which changes nothing where the first one
// arrived. Records of one RecordID that are sent one after the other, each after the answer to the one before, keep that
// order; so do those that wait at the same time in one Client, in the order of their calls to Send.
//
// Concurrency: a Client may be used by any number of goroutines; at most MaxWaiting records wait for their answers at
// once, further calls wait before they send.
//
// Failure: without Kafka or without ingest, Send waits for as long as its context does.
//
// Pseudonyms: the key of a request is account/lane, where the lane is one byte of the hash of the RecordID: enough to keep
// the versions of a record in one partition, and too little to tell who it is.
//
// For HTTP there is databus/services/ingest/client, which seals as well.
package client

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/seal"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

// Record is a customer's record.
type Record struct {
	// RequestID is the idempotency key, unique in the account; empty: Send chooses one.
	RequestID string
	// RecordID is the customer's own id, 1 to 256 characters.
	RecordID string
	// Fields as ingest reads them, such as email, phone, given_name.
	Fields map[string]string
	// Delete removes the record instead.
	Delete bool
}

// Answer is what became of a record.
type Answer struct {
	RequestID string
	// FCID and PersonID say who it is; empty for a deletion.
	FCID, PersonID string
	// GraphVersion is the graph under which the person was found.
	GraphVersion string
}

// Refused is a record that can never be accepted as it is.
type Refused struct {
	RequestID string
	Reason    string // without values
}

func (e *Refused) Error() string { return "ingest refused request " + e.RequestID + ": " + e.Reason }

// ErrClosed: the client was closed.
var ErrClosed = errors.New("client is closed")

// Options of a Client.
type Options struct {
	// Kafka says where the brokers are; no option of a consumer or producer.
	Kafka []kgo.Opt
	Codec *codec.Codec
	// Key is ingest's public key, see FetchKey.
	Key *seal.PublicKey
	// Resend is how long to wait for an answer before the record is sent again; default 15 s.
	Resend time.Duration
	// MaxWaiting records at once; default 10,000.
	MaxWaiting int
	Log        *slog.Logger
}

// Client sends records and hands out answers.
type Client struct {
	o           Options
	producer    *kgo.Client
	consumer    *kgo.Client
	requests    *codec.Serde[event.ResolveRequest]
	resolutions *codec.Serde[event.Resolution]
	customers   *codec.Embedded[event.CustomerRecord]
	slots       chan struct{}
	done        chan struct{} // closed when the reader has ended
	cancel      context.CancelFunc

	mu      sync.Mutex
	waiting map[string]chan *event.Resolution // by account and request id
}

// FetchKey gets the public key from ingest's API at a base URL, such as https://ingest.example.
func FetchKey(ctx context.Context, url string) (*seal.PublicKey, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/v1/public-key", nil)
	if err != nil {
		return nil, fmt.Errorf("fetching the public key: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("fetching the public key: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("fetching the public key: %s answered %s", url, resp.Status)
	}
	key := new(seal.PublicKey)
	if err := json.NewDecoder(io.LimitReader(resp.Body, 4096)).Decode(key); err != nil {
		return nil, fmt.Errorf("fetching the public key: %w", err)
	}
	return key, nil
}

// New connects to the brokers. Answers are read from the topic's end at this moment.
func New(ctx context.Context, o Options) (_ *Client, err error) {
	if o.Codec == nil || o.Key == nil {
		return nil, errors.New("making a client: a codec and ingest's public key are needed")
	}
	if o.Resend <= 0 {
		o.Resend = 15 * time.Second
	}
	if o.MaxWaiting <= 0 {
		o.MaxWaiting = 10_000
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	c := &Client{o: o, requests: codec.For[event.ResolveRequest](o.Codec, schemas.IdentityRequests), resolutions: codec.For[event.Resolution](o.Codec, schemas.IdentityResolutions),
		customers: codec.ForEmbedded[event.CustomerRecord]("customer_record"), slots: make(chan struct{}, o.MaxWaiting), done: make(chan struct{}),
		waiting: map[string]chan *event.Resolution{}}
	c.producer, err = kgo.NewClient(append(append([]kgo.Opt{}, o.Kafka...), kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordPartitioner(kgo.BasicConsistentPartitioner(func(topic string) func(*kgo.Record, int) int {
			return func(r *kgo.Record, n int) int { return int(schemas.Partition(topic, r.Key, int32(n))) }
		})))...)
	if err != nil {
		return nil, fmt.Errorf("making a client: %w", err)
	}
	ends, err := kadm.NewClient(c.producer).ListEndOffsets(ctx, schemas.IdentityResolutions)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		c.producer.Close()
		return nil, fmt.Errorf("making a client: asking for the end of %s: %w", schemas.IdentityResolutions, err)
	}
	from := map[int32]kgo.Offset{}
	ends.Each(func(o kadm.ListedOffset) { from[o.Partition] = kgo.NewOffset().At(o.Offset) })
	c.consumer, err = kgo.NewClient(append(append([]kgo.Opt{}, o.Kafka...), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{schemas.IdentityResolutions: from}),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()))...)
	if err != nil {
		c.producer.Close()
		return nil, fmt.Errorf("making a client: %w", err)
	}
	reading, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c.cancel = cancel
	go c.read(reading)
	return c, nil
}

// Close ends the client; calls of Send that wait return ErrClosed.
func (c *Client) Close() {
	c.cancel()
	<-c.done
	c.consumer.Close()
	c.producer.Close()
}

// read hands out answers.
func (c *Client) read(ctx context.Context) {
	defer close(c.done)
	for ctx.Err() == nil {
		fetches := c.consumer.PollFetches(ctx)
		fetches.EachError(func(topic string, p int32, err error) {
			if ctx.Err() == nil {
				c.o.Log.Warn("reading answers", "topic", topic, "partition", p, "error", err)
			}
		})
		fetches.EachRecord(func(rec *kgo.Record) {
			var answer event.Resolution
			if err := c.resolutions.Decode(ctx, rec.Value, &answer); err != nil {
				c.o.Log.Warn("an answer cannot be read", "partition", rec.Partition, "offset", rec.Offset, "error", err)
				return
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			key := schemas.JoinKey(answer.Account, answer.RequestID)
			if to := c.waiting[key]; to != nil {
				delete(c.waiting, key)
				to <- &answer
			}
		})
	}
}

// Send seals a record, sends it and waits for its answer. Errors: *Refused; the context's; ErrClosed; what keeps Kafka or
// the registry from taking it. After any but *Refused the outcome is unknown: send the record again with the same RequestID.
func (c *Client) Send(ctx context.Context, account string, r Record) (Answer, error) {
	if r.RequestID == "" {
		r.RequestID = rand.Text()
	}
	rec, err := c.seal(ctx, account, &r)
	if err != nil {
		return Answer{}, fmt.Errorf("sending request %s: %w", r.RequestID, err)
	}
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done():
		return Answer{}, fmt.Errorf("sending request %s: %w", r.RequestID, ctx.Err())
	case <-c.done:
		return Answer{}, ErrClosed
	}
	key, answered := schemas.JoinKey(account, r.RequestID), make(chan *event.Resolution, 1)
	c.mu.Lock()
	if c.waiting[key] != nil {
		c.mu.Unlock()
		return Answer{}, fmt.Errorf("sending request %s: it waits for its answer already", r.RequestID)
	}
	c.waiting[key] = answered
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.waiting[key] == answered {
			delete(c.waiting, key)
		}
	}()
	for {
		failed := make(chan error, 1)
		once := *rec // the client fills it
		c.producer.Produce(ctx, &once, func(_ *kgo.Record, err error) {
			if err != nil {
				failed <- err
			}
		})
		select {
		case a := <-answered:
			if a.Outcome == event.OutcomeRejected {
				return Answer{}, &Refused{r.RequestID, a.Problem}
			}
			out := Answer{RequestID: r.RequestID, GraphVersion: a.GraphVersion}
			if a.Fcid != nil {
				out.FCID = *a.Fcid
			}
			if a.PersonID != nil {
				out.PersonID = *a.PersonID
			}
			return out, nil
		case err := <-failed:
			return Answer{}, fmt.Errorf("sending request %s: %w", r.RequestID, err)
		case <-ctx.Done():
			return Answer{}, fmt.Errorf("waiting for the answer to request %s: %w", r.RequestID, ctx.Err())
		case <-c.done:
			return Answer{}, ErrClosed
		case <-time.After(c.o.Resend):
		}
	}
}

// seal makes the record of a request.
func (c *Client) seal(ctx context.Context, account string, r *Record) (*kgo.Record, error) {
	if !schemas.ValidAccount(account) {
		return nil, &Refused{r.RequestID, "account is not 1 to 64 characters of [A-Za-z0-9._-]"}
	}
	fields := r.Fields
	if fields == nil || r.Delete {
		fields = map[string]string{}
	}
	plain, err := c.customers.Append(nil, &event.CustomerRecord{RecordID: r.RecordID, Fields: fields})
	if err != nil {
		return nil, err
	}
	sealed, err := c.o.Key.SealRequest(account, r.RequestID, plain)
	if err != nil {
		return nil, err
	}
	q := event.ResolveRequest{RequestID: r.RequestID, Account: account, Kind: event.RequestKindUpsert, RecipientKeyID: c.o.Key.ID(), Sealed: sealed}
	if r.Delete {
		q.Kind = event.RequestKindDelete
	}
	value, err := c.requests.Encode(ctx, &q)
	if err != nil {
		return nil, err
	}
	lane := sha256.Sum256([]byte("databus/lane/1" + r.RecordID))
	return &kgo.Record{Topic: schemas.IdentityRequests, Key: []byte(schemas.JoinKey(account, hex.EncodeToString(lane[:1]))), Value: value}, nil
}
