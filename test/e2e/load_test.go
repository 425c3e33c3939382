package e2e

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"databus/services/ingest/client"
)

// A write is one version of a record.
type write struct {
	account string
	client.Record
}

// history invents a load: records of two accounts that are set, changed (some move to another person), deleted and set
// again, about n writes. The same seed gives the same writes. Each has a request id of its own.
func history(seed uint64, n int) []write {
	r := rand.New(rand.NewPCG(seed, 7))
	var order []int // a record, once for each of its versions
	records := n / 3
	for i := range records {
		for range 1 + r.IntN(5) {
			order = append(order, i)
		}
	}
	r.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	versions := map[int]int{}
	writes := make([]write, 0, len(order))
	for _, i := range order {
		versions[i]++
		w := write{account: []string{"acme", "globex"}[i%2]}
		w.RecordID, w.RequestID = fmt.Sprintf("r-%04d", i), fmt.Sprintf("kill/%d/%d", i, versions[i])
		if versions[i] > 1 && r.IntN(5) == 0 {
			w.Delete = true
		} else {
			person := r.IntN(records / 2)
			w.Fields = map[string]string{"email": fmt.Sprintf("p%d@mail.example", person), "note": w.RequestID}
			if r.IntN(2) == 0 {
				w.Fields["given_name"], w.Fields["surname"], w.Fields["birth_date"] = "Anna", fmt.Sprintf("Doe%d", person), "1980-02-03"
			}
		}
		writes = append(writes, w)
	}
	return writes
}

// newest is the model: what each record is after all writes, by account and RecordID.
func newest(writes []write) map[[2]string]write {
	m := map[[2]string]write{}
	for _, w := range writes {
		m[[2]string{w.account, w.RecordID}] = w
	}
	return m
}

// A loader sends writes in several lanes, those of one record in order, until each is acknowledged. A batch that failed
// is sent again, and every fifth one that did not is sent again later, when newer versions are there already.
type loader struct {
	api   *client.Client
	quota atomic.Int64 // how many writes may be sent by now
	sent  atomic.Int64 // writes that are acknowledged
	fails atomic.Int64 // calls that failed and were done again
	wg    sync.WaitGroup
	errs  chan error
}

const (
	lanes     = 4
	batchSize = 20
)

func startLoader(ctx context.Context, api string, writes []write) *loader {
	l := &loader{errs: make(chan error, lanes)}
	// One attempt a call: the loader repeats by itself, and counts.
	l.api = &client.Client{URL: api, Attempts: 1, HTTP: &http.Client{Timeout: 15 * time.Second}}
	var lane [lanes]map[string][]write // by account
	for i := range lane {
		lane[i] = map[string][]write{}
	}
	for _, w := range writes {
		n := len(w.RecordID)
		i := int(w.RecordID[n-1]+w.RecordID[n-2]) % lanes
		lane[i][w.account] = append(lane[i][w.account], w)
	}
	for i := range lane {
		l.wg.Go(func() { l.errs <- l.run(ctx, lane[i]) })
	}
	return l
}

func (l *loader) run(ctx context.Context, byAccount map[string][]write) error {
	batches := map[string][][]write{}
	for account, writes := range byAccount {
		batches[account] = slices.Collect(slices.Chunk(writes, batchSize))
	}
	accounts := slices.Sorted(maps.Keys(batches))
	for i := 0; ; i++ {
		left := false
		for _, account := range accounts {
			if i >= len(batches[account]) {
				continue
			}
			left = true
			for l.sent.Load() >= l.quota.Load() {
				if err := pause(ctx, 5*time.Millisecond); err != nil {
					return err
				}
			}
			if err := l.batch(ctx, account, batches[account][i]); err != nil {
				return err
			}
			l.sent.Add(int64(len(batches[account][i])))
			if i%5 == 4 { // late repeat
				if err := l.batch(ctx, account, batches[account][i-1]); err != nil {
					return err
				}
			}
		}
		if !left {
			return nil
		}
	}
}

// batch sends until every record is acknowledged.
func (l *loader) batch(ctx context.Context, account string, writes []write) error {
	records := make([]client.Record, len(writes))
	for i, w := range writes {
		records[i] = w.Record
	}
	for {
		results, err := l.api.PutBatch(ctx, account, records)
		if err == nil {
			for _, r := range results {
				if r.Status != http.StatusOK {
					return fmt.Errorf("request %s of account %s: status %d: %s", r.RequestID, account, r.Status, r.Problem)
				}
			}
			return nil
		}
		l.fails.Add(1)
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// finish waits until all is acknowledged.
func (l *loader) finish(t testing.TB) {
	t.Helper()
	l.wg.Wait()
	for range lanes {
		if err := <-l.errs; err != nil {
			t.Fatalf("loading, %d writes acknowledged: %v", l.sent.Load(), err)
		}
	}
}
