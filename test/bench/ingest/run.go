package ingest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"databus/services/ingest/client"
)

// Options of a run.
type Options struct {
	Brokers, Cassandra []string
	Registry           string // base URL
	Dir                string // for state and logs
	// Records of a round: half of them new, then each moves to another person.
	Records int
	Rounds  int // measured; one more comes before, to warm the servers up
	// Rate of single calls per second, and for how long.
	Rate     int
	Duration time.Duration
	// Set are settings of ingest, key=value.
	Set []string
	Say func(format string, args ...any)
}

// Result of a run.
type Result struct {
	// Ingest and Driver are records per second of each round; Share is the former by the latter.
	Ingest, Driver, Share []float64
	// CPU is what ingest used for a record, in microseconds.
	CPU []float64
	// Latencies of single calls from the moment that they were due, in ms, sorted.
	Latencies []float64
	Failed    int
	Rows      int
}

// Run measures.
func Run(ctx context.Context, o Options) (*Result, error) {
	w, err := open(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("preparing: %w", err)
	}
	defer w.Close()
	r := &Result{}
	for n := range o.Rounds + 1 {
		mine, cpu, err := w.ingest(ctx, n)
		if err != nil {
			return nil, fmt.Errorf("round %d of ingest: %w", n, err)
		}
		log, err := w.log(ctx, account(n))
		if err != nil {
			return nil, fmt.Errorf("reading the records of round %d: %w", n, err)
		}
		other, err := w.driver(ctx, log)
		if err != nil {
			return nil, fmt.Errorf("round %d of the driver: %w", n, err)
		}
		o.Say("round %d: ingest %.0f records/s, the driver alone %.0f, %.0f us of CPU a record in ingest", n, mine, other, cpu)
		if n > 0 {
			r.Ingest, r.Driver, r.Share, r.CPU = append(r.Ingest, mine), append(r.Driver, other), append(r.Share, mine/other), append(r.CPU, cpu)
		}
	}
	if r.Rows, err = w.compare(ctx); err != nil {
		return nil, err
	}
	if _, _, err := w.calls(ctx, o.Rate, min(o.Duration, 5*time.Second), "warm"); err != nil { // connections and code
		return nil, err
	}
	r.Latencies, r.Failed, err = w.calls(ctx, o.Rate, o.Duration, "measured")
	return r, err
}

func account(round int) string { return fmt.Sprint("account-", round) }

// ingest is one round through HTTP batches to applied rows.
func (w *world) ingest(ctx context.Context, round int) (rate, cpu float64, err error) {
	c := &client.Client{URL: w.api}
	before, err := w.process.Usage()
	if err != nil {
		return 0, 0, err
	}
	begin := time.Now()
	half := w.o.Records / 2
	for part := range 2 {
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(4)
		const batch = 500
		for first := 0; first < half; first += batch {
			g.Go(func() error {
				var records []client.Record
				for i := first; i < min(half, first+batch); i++ {
					records = append(records, client.Record{RequestID: fmt.Sprintf("%d/%d/%d", round, part, i), RecordID: fmt.Sprint("record-", i), Fields: map[string]string{
						"email": fmt.Sprintf("person-%d-%d@mail.example", i, part), "given_name": "Anna", "surname": fmt.Sprint("Somebody", i), "city": "Bern", "note": strings.Repeat("x", 100)}})
				}
				results, err := c.PutBatch(gctx, account(round), records)
				for _, r := range results {
					if r.Status != http.StatusOK {
						return fmt.Errorf("a record was answered with %d: %s", r.Status, r.Problem)
					}
				}
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return 0, 0, err
		}
	}
	if err := w.applied(ctx); err != nil {
		return 0, 0, err
	}
	took := time.Since(begin)
	after, err := w.process.Usage()
	return float64(2*half) / took.Seconds(), float64((after.CPU - before.CPU).Microseconds()) / float64(2*half), err
}

// calls sends single records at a steady rate, whether or not those before are answered, and returns how long after its
// moment each was answered.
func (w *world) calls(ctx context.Context, rate int, d time.Duration, name string) (ms []float64, failed int, err error) {
	transport := &http.Transport{MaxIdleConnsPerHost: 256}
	defer transport.CloseIdleConnections()
	h := &http.Client{Transport: transport, Timeout: 10 * time.Second}
	var mu sync.Mutex
	var wg sync.WaitGroup
	var first error
	begin := time.Now()
	for i := range int(d.Seconds() * float64(rate)) {
		due := begin.Add(time.Duration(i) * time.Second / time.Duration(rate))
		time.Sleep(time.Until(due))
		wg.Go(func() {
			body := fmt.Sprintf(`{"request_id":"%s-%d","record_id":"%s-%d","fields":{"email":"caller-%d@mail.example"}}`, name, i, name, i, i%1000)
			err := func() error {
				req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.api+"/v1/accounts/caller/records", strings.NewReader(body))
				if err != nil {
					return err
				}
				resp, err := h.Do(req)
				if err != nil {
					return err
				}
				defer resp.Body.Close()
				b, err := io.ReadAll(resp.Body)
				if err == nil && resp.StatusCode != http.StatusOK {
					err = fmt.Errorf("answered %s: %s", resp.Status, b)
				}
				return err
			}()
			took := time.Since(due)
			mu.Lock()
			defer mu.Unlock()
			ms = append(ms, float64(took.Microseconds())/1000)
			if err != nil {
				failed++
				first = errors.Join(first, err)
			}
		})
	}
	wg.Wait()
	slices.Sort(ms)
	if failed > len(ms)/100 {
		return ms, failed, fmt.Errorf("%d of %d calls failed: %w", failed, len(ms), first)
	}
	return ms, failed, ctx.Err()
}
