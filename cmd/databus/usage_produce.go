package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/usage"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

type usageProduceCmd struct {
	Total      int64     `short:"n" default:"10000" help:"Events to send, duplicates included; at most a billion."`
	Rate       float64   `placeholder:"N" help:"Events per second; without it as fast as the brokers take them."`
	Accounts   int       `default:"1000" help:"How many accounts there are: load-1, load-2, ..."`
	Account    []string  `placeholder:"ID" help:"Take these accounts instead; the first is the busiest."`
	Skew       float64   `default:"1.1" help:"Exponent of the Zipf distribution over the accounts, above 1."`
	Pack       []string  `predictor:"pack" default:"person,lookup,resolve" help:"Data packs, each as often as the others."`
	Duplicates float64   `default:"0" placeholder:"SHARE" help:"Share of the events that repeat one of the last thousand, such as 0.05."`
	NotFound   float64   `default:"0.2" placeholder:"SHARE" help:"Share of the events with status 404, no match."`
	Seed       uint64    `default:"1" help:"Seed of the generator."`
	RunName    string    `name:"run" placeholder:"NAME" help:"Begin event ids with this name. The same name and seed give the same ids, so that a second run counts nothing; default: a new one."`
	At         time.Time `placeholder:"TIME" help:"When all the events happened, such as 2026-01-31T12:00:00Z; default: now."`
	Format     string    `enum:"text,json" default:"text" help:"Of the summary."`
}

func (usageProduceCmd) Help() string {
	return `Sends generated usage events to usage.events: few accounts are busy and many are not, as Zipf's law says. Events are sent
by an idempotent producer with acks=all. At the end it prints how many were acknowledged, how many of them were
duplicates, and the rate; also when it is interrupted. Exits with 1 if any event was not acknowledged.

The same seed, accounts, packs and shares give the same accounts, packs and statuses in the same order.

Examples:

    databus usage produce --account acme --total 500 --duplicates 0.05

    databus usage produce --accounts 90000 --total 2000 --rate 4000 --seed 7 --format json
`
}

// Validate is called by the parser of the command line.
func (c usageProduceCmd) Validate() error {
	switch {
	case c.Total < 1 || c.Total > 1_000_000_000:
		return errors.New("--total is not between 1 and 1000000000")
	case c.Rate < 0 || c.Rate > 10_000_000:
		return errors.New("--rate is not between 0 and 10000000")
	case c.Accounts < 1 || c.Accounts > 10_000_000:
		return errors.New("--accounts is not between 1 and 10000000")
	case c.Skew <= 1 || c.Skew > 10:
		return errors.New("--skew is not above 1 and at most 10")
	case c.Duplicates < 0 || c.Duplicates > 0.9:
		return errors.New("--duplicates is not between 0 and 0.9")
	case c.NotFound < 0 || c.NotFound > 1:
		return errors.New("--not-found is not between 0 and 1")
	case len(c.RunName) > 64:
		return errors.New("--run is longer than 64 bytes")
	}
	for _, a := range c.Account {
		if !schemas.ValidAccount(a) {
			return fmt.Errorf("--account %q is no account id", a)
		}
	}
	for _, p := range c.Pack {
		if !usage.ValidPack(p) {
			return fmt.Errorf("--pack %q is no name of a data pack", p)
		}
	}
	return nil
}

// generator invents events. It is used by one goroutine.
type generator struct {
	cmd    usageProduceCmd
	random *rand.Rand
	zipf   *rand.Zipf // nil for one account
	made   int64      // events that are no duplicates
	recent []event.UsageEvent
}

// recentEvents is how far back a duplicate reaches.
const recentEvents = 1000

func newGenerator(c usageProduceCmd) *generator {
	g := &generator{cmd: c, random: rand.New(rand.NewPCG(c.Seed, 0x5851f42d4c957f2d))}
	n := c.Accounts
	if len(c.Account) > 0 {
		n = len(c.Account)
	}
	if n > 1 {
		g.zipf = rand.NewZipf(g.random, c.Skew, 1, uint64(n-1))
	}
	return g
}

// next returns an event, and whether it is a duplicate.
func (g *generator) next(now time.Time) (event.UsageEvent, bool) {
	if len(g.recent) > 0 && g.random.Float64() < g.cmd.Duplicates {
		return g.recent[g.random.IntN(len(g.recent))], true
	}
	g.made++
	e := event.UsageEvent{EventID: g.cmd.RunName + "-" + strconv.FormatUint(g.cmd.Seed, 36) + "-" + strconv.FormatInt(g.made, 10), OccurredAt: now, Quantity: 1, Status: 200, Endpoint: "load"}
	account := uint64(0)
	if g.zipf != nil {
		account = g.zipf.Uint64()
	}
	if len(g.cmd.Account) > 0 {
		e.Account = g.cmd.Account[account]
	} else {
		e.Account = "load-" + strconv.FormatUint(account+1, 10)
	}
	e.Pack = g.cmd.Pack[g.random.IntN(len(g.cmd.Pack))]
	if g.random.Float64() < g.cmd.NotFound {
		e.Status = 404
	}
	if g.cmd.Duplicates > 0 {
		if len(g.recent) < recentEvents {
			g.recent = append(g.recent, e)
		} else {
			g.recent[int(g.made)%recentEvents] = e
		}
	}
	return e, false
}

// produced is the summary.
type produced struct {
	Sent         int64   `json:"sent"`
	Acknowledged int64   `json:"acknowledged"`
	Duplicates   int64   `json:"duplicates"`
	Seconds      float64 `json:"seconds"`
	Rate         float64 `json:"events_per_second"`
	Run          string  `json:"run"`
}

// Run sends the events and prints the summary.
func (c usageProduceCmd) Run(ctx context.Context, g *Globals) error {
	if c.RunName == "" {
		c.RunName = "run" + strconv.FormatInt(time.Now().UnixMicro(), 36)
	}
	cdc, err := g.codec()
	if err != nil {
		return err
	}
	cl, err := g.kafka(ctx, kgo.RequiredAcks(kgo.AllISRAcks()), kgo.MaxBufferedRecords(10_000))
	if err != nil {
		return err
	}
	defer cl.Close()
	if err := ready(ctx, cl, schemas.MustLookup(schemas.UsageEvents)); err != nil {
		return err
	}
	sum, err := c.send(ctx, cl, codec.For[event.UsageEvent](cdc, schemas.UsageEvents))
	if c.Format == "json" {
		printJSON(g.Out, sum)
	} else {
		fmt.Fprintf(g.Out, "%d events sent, %d acknowledged, %d duplicates among them, in %.1f s: %.0f events/s; their ids begin with %s\n",
			sum.Sent, sum.Acknowledged, sum.Duplicates, sum.Seconds, sum.Rate, sum.Run)
	}
	if ctx.Err() != nil && sum.Acknowledged == sum.Sent {
		return fmt.Errorf("stopped after %d of %d events; all of them are acknowledged", sum.Sent, c.Total)
	}
	if err == nil && sum.Acknowledged < sum.Sent {
		err = errors.New("not every event was acknowledged")
	}
	if err != nil {
		return fmt.Errorf("producing to %s: %w; the events that were not acknowledged may be there or not: send the same --run again, and each counts once",
			schemas.UsageEvents, g.registryHint(err))
	}
	return nil
}

// send produces every event at the chosen rate.
func (c usageProduceCmd) send(ctx context.Context, cl *kgo.Client, serde *codec.Serde[event.UsageEvent]) (produced, error) {
	var (
		sum          = produced{Run: c.RunName}
		acknowledged atomic.Int64
		failure      atomic.Pointer[error]
		gen          = newGenerator(c)
		begin        = time.Now()
		failed       error
	)
	// What is under way when the caller's context ends may reach the brokers: it is waited for, but not for ever.
	sending, give := context.WithCancel(context.WithoutCancel(ctx))
	defer give()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(10*time.Second, give) })()
	for sum.Sent < c.Total && failed == nil {
		if err := c.pace(ctx, begin, sum.Sent); err != nil {
			failed = err
			break
		}
		if err := failure.Load(); err != nil {
			failed = *err
			break
		}
		at := c.At
		if at.IsZero() {
			at = time.Now()
		}
		e, duplicate := gen.next(at)
		value, err := serde.Encode(ctx, &e)
		if err != nil {
			failed = err
			break
		}
		sum.Sent++
		if duplicate {
			sum.Duplicates++
		}
		// Blocks while too many events are on their way.
		cl.Produce(sending, &kgo.Record{Topic: schemas.UsageEvents, Key: []byte(e.Account), Value: value}, func(_ *kgo.Record, err error) {
			if err == nil {
				acknowledged.Add(1)
				return
			}
			failure.CompareAndSwap(nil, &err)
		})
	}
	if err := cl.Flush(sending); err != nil && failed == nil {
		failed = err
	}
	if err := failure.Load(); err != nil && failed == nil {
		failed = *err
	}
	sum.Acknowledged, sum.Seconds = acknowledged.Load(), time.Since(begin).Seconds()
	sum.Rate = float64(sum.Acknowledged) / max(sum.Seconds, 1e-9)
	return sum, failed
}

// pace waits until it is an event's turn.
func (c usageProduceCmd) pace(ctx context.Context, begin time.Time, n int64) error {
	if c.Rate > 0 {
		ahead := time.Duration(float64(n)/c.Rate*float64(time.Second)) - time.Since(begin)
		if ahead > time.Millisecond {
			select {
			case <-ctx.Done():
			case <-time.After(ahead):
			}
		}
	}
	return ctx.Err()
}
