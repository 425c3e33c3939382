// Package load sends customer records from a file or a generator to ingest's API: in batches, several at a time, each
// record under a request id that is the same when the load is run again.
//
// Promise: records of one RecordID are sent in the order of the source. A load that broke off and is run again changes
// nothing that it had done, within the window in which the Databus knows repeats.
package load

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"databus/services/ingest/client"
)

// A Record is one row of a source.
type Record struct {
	Account string
	client.Record
}

// A Source returns records until io.EOF.
type Source interface{ Next() (Record, error) }

// Options of a load.
type Options struct {
	Client *client.Client
	// Batch is the number of records of a call, Parallel how many calls are under way; 0 means 500 and 4.
	Batch, Parallel int
	// Progress is called with the number of records of each finished call, from several goroutines.
	Progress func(n int)
}

// Summary says what became of a load.
type Summary struct {
	Accepted, Refused, Warnings int64
	// Problems are the first ten reasons of refusals, each once, without values.
	Problems []string
	// Ends are the ends of the Databus partitions behind the newest accepted record of each, by partition.
	Ends map[int32]int64
	// ByAccount counts the accepted records of each account.
	ByAccount map[string]int64
}

// An answer is the result of one record of an account.
type answer struct {
	account string
	client.Result
}

// lane is the records of one worker, by account.
type lane chan Record

// Run sends every record of the source.
func Run(ctx context.Context, source Source, o Options) (Summary, error) {
	if o.Batch == 0 {
		o.Batch = 500
	}
	if o.Parallel == 0 {
		o.Parallel = 4
	}
	g, ctx := errgroup.WithContext(ctx)
	lanes := make([]lane, o.Parallel)
	results := make(chan answer, o.Batch)
	var sent atomic.Int64
	for i := range lanes {
		lanes[i] = make(lane, o.Batch)
		g.Go(func() error { return work(ctx, lanes[i], o, results, &sent) })
	}
	g.Go(func() error {
		defer func() {
			for _, l := range lanes {
				close(l)
			}
		}()
		for {
			r, err := source.Next()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			select {
			case lanes[laneOf(r, o.Parallel)] <- r:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	var (
		sum  = Summary{Ends: map[int32]int64{}, ByAccount: map[string]int64{}}
		seen = map[string]bool{}
		done = make(chan struct{})
	)
	go func() {
		defer close(done)
		for r := range results {
			if r.Status >= 300 {
				sum.Refused++
				if !seen[r.Problem] && len(seen) < 10 {
					seen[r.Problem] = true
					sum.Problems = append(sum.Problems, r.Problem)
				}
				continue
			}
			sum.Accepted++
			sum.ByAccount[r.account]++
			if len(r.Warnings) > 0 {
				sum.Warnings++
			}
			sum.Ends[r.Partition] = max(sum.Ends[r.Partition], r.Offset+1)
		}
	}()
	err := g.Wait()
	close(results)
	<-done
	return sum, err
}

// laneOf keeps the versions of one record in one worker, and so in order.
func laneOf(r Record, lanes int) int {
	h := fnv.New32a()
	_, _ = io.WriteString(h, r.Account+"/"+r.RecordID)
	return int(h.Sum32() % uint32(lanes))
}

// work sends a lane's records in batches of one account each.
func work(ctx context.Context, in lane, o Options, results chan<- answer, sent *atomic.Int64) error {
	pending := map[string][]client.Record{}
	flush := func(account string) error {
		batch := pending[account]
		pending[account] = nil
		if len(batch) == 0 {
			return nil
		}
		out, err := o.Client.PutBatch(ctx, account, batch)
		if err != nil {
			return fmt.Errorf("sending %d records of account %s, after %d in all: %w", len(batch), account, sent.Load(), err)
		}
		sent.Add(int64(len(batch)))
		for _, r := range out {
			results <- answer{account, r}
		}
		if o.Progress != nil {
			o.Progress(len(batch))
		}
		return nil
	}
	for r := range in {
		pending[r.Account] = append(pending[r.Account], r.Record)
		if len(pending[r.Account]) >= o.Batch {
			if err := flush(r.Account); err != nil {
				drain(in)
				return err
			}
		}
	}
	for account := range pending {
		if err := flush(account); err != nil {
			return err
		}
	}
	return nil
}

// drain lets the reader go on to see that the context has ended.
func drain(in lane) {
	go func() {
		for range in {
		}
	}()
}
