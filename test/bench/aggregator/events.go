package aggregator

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

// Rows of an account: two packs and all packs, in total and in one calendar month.
const (
	rowsPerAccount = 6
	repeatShare    = 0.01 // of the events are exact repeats of an earlier one
	recent         = 1 << 16
)

var (
	packs     = [2]string{"person", "company"}
	providers = map[string]string{"person": "alpha-data", "company": "beta-data"} // who is owed for a match, by pack
)

// lastMonth is when all events happened: the calendar month before this one, in UTC.
func lastMonth(now time.Time) time.Time {
	return time.Date(now.UTC().Year(), now.UTC().Month()-1, 1, 0, 0, 0, 0, time.UTC)
}

// sums are what one account and pack adds up to.
type sums struct{ matched, unmatched, amount int64 }

func (s *sums) add(e *event.UsageEvent) {
	if e.Status == 200 {
		s.matched += e.Quantity
	} else {
		s.unmatched += e.Quantity
	}
	s.amount += e.AmountMicros
}

func (s *sums) plus(o sums) {
	s.matched, s.unmatched, s.amount = s.matched+o.matched, s.unmatched+o.unmatched, s.amount+o.amount
}

// row is what a row of the output holds: the sums, and the part of each provider.
type row struct {
	sums
	alpha, beta sums
}

// counted is one account and pack with its true sums, over all events and over the distinct ones.
type counted struct {
	account, pack string
	all, distinct sums
}

// input makes the events, sends them and knows what they add up to.
type input struct {
	serde    *codec.Serde[event.UsageEvent]
	client   *kgo.Client
	rng      *rand.Rand
	zipf     *rand.Zipf
	accounts []string
	counted  []counted
	ring     []sent
	month    time.Time
	n        int
}

// sent is an event that may be repeated.
type sent struct {
	e     event.UsageEvent
	value []byte
	at    int // in counted
}

func newInput(client *kgo.Client, c *codec.Codec, keys int, seed uint64) *input {
	in := &input{client: client, serde: codec.For[event.UsageEvent](c, schemas.UsageEvents), rng: rand.New(rand.NewPCG(seed, 4)), month: lastMonth(time.Now())}
	for i := range max(1, keys/rowsPerAccount) {
		account := fmt.Sprintf("acct-%05d", i)
		in.accounts = append(in.accounts, account)
		for _, p := range packs {
			in.counted = append(in.counted, counted{account: account, pack: p})
		}
	}
	// Exponent 1.01: the largest of 15,000 accounts has a tenth of the events, the smallest about twenty.
	in.zipf = rand.NewZipf(in.rng, 1.01, 1, uint64(len(in.accounts)-1))
	return in
}

// next makes an event of the i-th account and pack; below zero, of a random one.
func (in *input) next(ctx context.Context, i int) (*kgo.Record, error) {
	if i < 0 && len(in.ring) == recent && in.rng.Float64() < repeatShare {
		s := &in.ring[in.rng.IntN(len(in.ring))]
		in.counted[s.at].all.add(&s.e)
		return &kgo.Record{Topic: schemas.UsageEvents, Key: []byte(s.e.Account), Value: s.value}, nil
	}
	if i < 0 {
		// The most popular accounts are spread over the names, and so over the partitions.
		account := int(in.zipf.Uint64()) * 7919 % len(in.accounts)
		i = account*len(packs) + in.rng.IntN(len(packs))
	}
	c := &in.counted[i]
	e := event.UsageEvent{EventID: fmt.Sprintf("%08x-%012x", in.rng.Uint32(), in.n), Account: c.account, Pack: c.pack,
		OccurredAt: in.month.Add(time.Duration(in.rng.Int64N(int64(28 * 24 * time.Hour)))).Truncate(time.Microsecond),
		Quantity:   1 + in.rng.Int64N(3), Status: 200, Endpoint: "/v1/" + c.pack + "/enrich"}
	in.n++
	if in.rng.IntN(4) == 0 {
		e.Status = 404
	} else {
		provider := providers[c.pack]
		e.Provider, e.AmountMicros = &provider, in.rng.Int64N(50_000)
	}
	value, err := in.serde.Encode(ctx, &e)
	if err != nil {
		return nil, err
	}
	c.all.add(&e)
	c.distinct.add(&e)
	s := sent{e: e, value: value, at: i}
	if len(in.ring) < recent {
		in.ring = append(in.ring, s)
	} else {
		in.ring[in.n%recent] = s
	}
	return &kgo.Record{Topic: schemas.UsageEvents, Key: []byte(e.Account), Value: value}, nil
}

// send produces n events; with every it begins with one of each account and pack.
func (in *input) send(ctx context.Context, n int, every bool) error {
	var mu sync.Mutex
	var failed error
	for i := range n {
		at := -1
		if every && i < len(in.counted) {
			at = i
		}
		rec, err := in.next(ctx, at)
		if err != nil {
			return fmt.Errorf("making an event: %w", err)
		}
		in.client.Produce(ctx, rec, func(_ *kgo.Record, err error) {
			if err != nil {
				mu.Lock()
				failed = err
				mu.Unlock()
			}
		})
	}
	if err := in.client.Flush(ctx); err != nil {
		return fmt.Errorf("sending events: %w", err)
	}
	mu.Lock()
	defer mu.Unlock()
	if failed != nil {
		return fmt.Errorf("sending events: %w", failed)
	}
	return nil
}

// probe makes an event of an account of its own, so that its output names it.
func (in *input) probe(ctx context.Context, account string) (*kgo.Record, error) {
	in.counted = append(in.counted, counted{account: account, pack: packs[0]})
	return in.next(ctx, len(in.counted)-1)
}

// truth is what every row must hold. Every match names its pack's provider, and nothing else does.
func (in *input) truth(dedup bool) map[string]row {
	rows := make(map[string]row, rowsPerAccount*len(in.accounts))
	for i := range in.counted {
		c := &in.counted[i]
		s := c.all
		if dedup {
			s = c.distinct
		}
		owed := sums{matched: s.matched, amount: s.amount}
		for _, pack := range [2]string{c.pack, "*"} {
			for _, period := range [2]string{"total", "month:" + in.month.Format("2006-01")} {
				key := schemas.JoinKey(c.account, pack, period)
				r := rows[key]
				r.plus(s)
				if c.pack == packs[0] {
					r.alpha.plus(owed)
				} else {
					r.beta.plus(owed)
				}
				rows[key] = r
			}
		}
	}
	return rows
}
