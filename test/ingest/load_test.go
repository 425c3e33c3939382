package ingest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/graph"
	"databus/pkg/identity"
	"databus/pkg/seal"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
	"databus/test/ingest/verify"
)

// Of the load: accounts, records of each, and persons that records move between.
const (
	accounts = 3
	records  = 250
	persons  = 40
)

// op is one record that a caller wants to have, in the API's form.
type op struct {
	account   string
	RequestID string            `json:"request_id"`
	RecordID  string            `json:"record_id"`
	Fields    map[string]string `json:"fields,omitempty"`
	Delete    bool              `json:"delete,omitempty"`
}

// load sends records until it is told to stop, and remembers what was sent and what was answered.
type load struct {
	w     *world
	group sync.WaitGroup
	pause time.Duration

	mu     sync.Mutex
	serial int
	sent   map[string]verify.Sent
	acks   []verify.Ack
	failed error // the first answer that no retry can help
	again  int   // calls that were sent again because they failed
}

func newLoad(w *world, pause time.Duration) *load {
	return &load{w: w, pause: pause, sent: map[string]verify.Sent{}}
}

// next makes an op; person < 0 chooses one.
func (l *load) next(rng *rand.Rand, account, record string, person int, topic bool) op {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.serial++
	o := op{account: account, RequestID: fmt.Sprintf("request-%06d", l.serial), RecordID: record, Fields: map[string]string{}}
	if person < 0 {
		person = rng.IntN(persons)
	}
	switch rng.IntN(10) {
	case 0:
		o.Fields["note"] = "nothing that identifies anybody"
	case 1:
		o.Fields["national_id"] = fmt.Sprintf("ID%06d", person)
	case 2:
		o.Fields["phone"] = fmt.Sprintf("+1415555%04d", 2600+person)
	}
	if o.Fields["note"] == "" {
		o.Fields["email"] = fmt.Sprintf("person-%d@mail.example", person)
	}
	if rng.IntN(12) == 0 {
		o.Delete, o.Fields = true, nil
	}
	l.sent[o.RequestID] = verify.Sent{Account: account, RecordID: record, Fields: o.Fields, Delete: o.Delete, Topic: topic}
	return o
}

// named is an upsert of a record for a person, and nothing else.
func (l *load) named(account, record string, person int) op {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.serial++
	o := op{account: account, RequestID: fmt.Sprintf("request-%06d", l.serial), RecordID: record, Fields: map[string]string{"email": fmt.Sprintf("person-%d@mail.example", person)}}
	l.sent[o.RequestID] = verify.Sent{Account: account, RecordID: record, Fields: o.Fields}
	return o
}

func someRecord(rng *rand.Rand) (account, record string) {
	return fmt.Sprint("account-", rng.IntN(accounts)), fmt.Sprint("record/", rng.IntN(records))
}

// start sends from several goroutines until stop is called; stop returns when everything is acknowledged.
func (l *load) start(ctx context.Context) (stop func() error) {
	ending := make(chan struct{})
	each := func(seed uint64, send func(rng *rand.Rand)) {
		l.group.Add(1)
		go func() {
			defer l.group.Done()
			rng := rand.New(rand.NewPCG(seed, 5))
			for {
				select {
				case <-ending:
					return
				case <-ctx.Done():
					return
				case <-time.After(l.pause/2 + rand.N(l.pause)):
					send(rng)
				}
			}
		}()
	}
	for n := range uint64(3) {
		each(n, func(rng *rand.Rand) { l.single(ctx, rng) })
		each(10+n, func(rng *rand.Rand) { l.batch(ctx, rng) })
	}
	each(20, func(rng *rand.Rand) { l.duel(ctx, rng) })
	each(21, func(rng *rand.Rand) { l.request(ctx, rng) })
	skewed := l.skewed(ctx)
	each(22, skewed)
	return sync.OnceValue(func() error {
		close(ending)
		l.group.Wait()
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.failed
	})
}

// single is one record by itself, now and then sent again to the other instance after it was acknowledged.
func (l *load) single(ctx context.Context, rng *rand.Rand) {
	account, record := someRecord(rng)
	o := l.next(rng, account, record, -1, false)
	first := rng.IntN(2)
	l.put(ctx, o, first)
	if rng.IntN(5) == 0 {
		l.put(ctx, o, first+1)
	}
}

// batch is up to 30 records of one account; one in three batches holds a record that goes from A to B and back, which
// lands within one millisecond.
func (l *load) batch(ctx context.Context, rng *rand.Rand) {
	account, _ := someRecord(rng)
	var ops []op
	for range 1 + rng.IntN(30) {
		_, record := someRecord(rng)
		ops = append(ops, l.next(rng, account, record, -1, false))
	}
	if rng.IntN(3) == 0 {
		_, record := someRecord(rng)
		a := rng.IntN(persons)
		for _, person := range []int{a, (a + 1) % persons, a} {
			ops = append(ops, l.named(account, record, person))
		}
	}
	first := rng.IntN(2)
	l.putBatch(ctx, account, ops, first)
	if rng.IntN(5) == 0 { // the end of it again, in a batch of its own
		l.putBatch(ctx, account, ops[rng.IntN(len(ops)):], first+1)
	}
}

// duel moves one record from both instances at once.
func (l *load) duel(ctx context.Context, rng *rand.Rand) {
	account, record := someRecord(rng)
	a := rng.IntN(persons)
	one, other := l.named(account, record, a), l.named(account, record, (a+1)%persons)
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.put(ctx, one, 0)
	}()
	l.put(ctx, other, 1)
	<-done
}

// ahead is what a producer's clock shows that is years ahead, or years behind, or stands still.
func ahead(rng *rand.Rand) time.Time {
	switch rng.IntN(3) {
	case 0:
		return time.Now().AddDate(7, 0, 0)
	case 1:
		return time.Now().AddDate(-7, 0, 0)
	}
	return time.Date(2031, 1, 2, 3, 4, 5, 678901000, time.UTC) // the same microsecond each time
}

// request is sealed to ingest and sent over the topic by a producer whose clock is wrong. It sends once: its own client
// takes care of that.
func (l *load) request(ctx context.Context, rng *rand.Rand) {
	account, record := someRecord(rng)
	o := l.next(rng, account, record, -1, true)
	err := func() error {
		fields := o.Fields
		if fields == nil {
			fields = map[string]string{}
		}
		plain, err := codec.ForEmbedded[event.CustomerRecord]("customer_record").Append(nil, &event.CustomerRecord{RecordID: record, Fields: fields})
		if err != nil {
			return err
		}
		to := l.w.keys.PublicKey()
		sealed, err := to.SealRequest(account, o.RequestID, plain)
		if err != nil {
			return err
		}
		q := event.ResolveRequest{RequestID: o.RequestID, Account: account, Kind: event.RequestKindUpsert, RecipientKeyID: to.ID(), Sealed: sealed}
		if o.Delete {
			q.Kind = event.RequestKindDelete
		}
		value, err := codec.For[event.ResolveRequest](l.w.codec, schemas.IdentityRequests).Encode(ctx, &q)
		if err != nil {
			return err
		}
		rec := &kgo.Record{Topic: schemas.IdentityRequests, Key: []byte(account + "/" + recordPlace(record)), Value: value, Timestamp: ahead(rng)}
		return l.w.client.ProduceSync(ctx, rec).FirstErr()
	}()
	if err != nil {
		l.fail(fmt.Errorf("sending a request: %w", err))
	}
}

// recordPlace stands for a record key in a request's key, which only chooses the partition.
func recordPlace(record string) string { return strings.ReplaceAll(record, "/", "-") }

// skewed is a front that does what ingest's API does, on a machine whose clock is wrong: versions of one record come from
// it and from the instances.
func (l *load) skewed(ctx context.Context) func(*rand.Rand) {
	keyring, err := seal.OpenKeyring(ctx, seal.Options{Kafka: l.w.opts, Codec: l.w.codec, Keys: l.w.keys})
	if err == nil {
		l.w.t.Cleanup(keyring.Close)
		err = keyring.Ready(ctx)
	}
	if err != nil {
		l.w.t.Fatal(err)
	}
	resolver, err := identity.NewResolver(l.w.keys, keyring, "US")
	if err != nil {
		l.w.t.Fatal(err)
	}
	serde := codec.For[event.DatabusRecord](l.w.codec, schemas.DatabusRecords)
	return func(rng *rand.Rand) {
		account, record := someRecord(rng)
		o := l.next(rng, account, record, -1, false)
		kind := event.RequestKindUpsert
		if o.Delete {
			kind = event.RequestKindDelete
		}
		err := func() error {
			res, err := resolver.Resolve(ctx, graph.Genesis(), &identity.Request{Account: account, RequestID: o.RequestID, Kind: kind, Record: event.CustomerRecord{RecordID: record, Fields: o.Fields}})
			if err != nil {
				return err
			}
			value, err := serde.Encode(ctx, &res.Record)
			if err != nil {
				return err
			}
			rec := &kgo.Record{Topic: schemas.DatabusRecords, Key: []byte(res.Key()), Value: value, Timestamp: ahead(rng)}
			if err := l.w.client.ProduceSync(ctx, rec).FirstErr(); err != nil {
				return err
			}
			l.ack(verify.Ack{RequestID: o.RequestID, Partition: rec.Partition, Offset: rec.Offset, FCID: res.FCID, PersonID: res.PersonID})
			return nil
		}()
		if err != nil {
			l.fail(fmt.Errorf("sending a record: %w", err))
		}
	}
}

func (l *load) ack(a verify.Ack) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acks = append(l.acks, a)
}

func (l *load) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed == nil {
		l.failed = err
	}
}
