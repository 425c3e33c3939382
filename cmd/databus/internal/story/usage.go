package story

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/schemas"
	"databus/schemas/event"
	"databus/services/ingest/client"
)

// Packs under which ingest's API counts its calls.
const (
	packLookup  = "lookup"
	packResolve = "resolve"
)

// contract agrees with the account on so many look-ups a month, to be warned at 80 percent.
func (s *story) contract(ctx context.Context) error {
	if s.Limit == 0 {
		return nil
	}
	err := produce(ctx, s.stack, schemas.UsageContracts, s.Account, &event.Contract{
		Account: s.Account, Version: 1, TimeZone: "UTC", StartsAt: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		Packs: []event.ContractPack{{Pack: packLookup, Period: event.PeriodTotal, Limit: int64(s.Limit),
			Thresholds: []event.Threshold{{Kind: event.ThresholdKindPercent, Value: 80}}}},
	})
	if err == nil {
		s.Teller.Say("account %s has a contract for %d look-ups", s.Account, s.Limit)
	}
	return err
}

// useUp calls until the API refuses.
func (s *story) useUp(ctx context.Context) error {
	if s.Limit == 0 {
		return nil
	}
	bar := s.Teller.Step("using up the contract of "+s.Account, s.Limit)
	from, err := markNow(ctx, s.stack, schemas.UsageThresholds)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var (
		crossed  []*event.ThresholdEvent
		watching error
		wg       sync.WaitGroup
	)
	wg.Go(func() {
		watching = watch(ctx, s.stack, schemas.UsageThresholds, from, func(_ *kgo.Record, e *event.ThresholdEvent) (bool, error) {
			if e.Account == s.Account && e.Pack == packLookup && e.Kind == event.ThresholdEventKindCrossed {
				crossed = append(crossed, e)
			}
			return e.Account == s.Account && e.ThresholdUnits == int64(s.Limit), nil
		})
	})
	admitted, reached := 3, time.Time{} // three look-ups were made before
	for {
		_, err := s.api.Get(ctx, s.Account, s.sample.RecordID)
		var refused *client.Error
		if errors.As(err, &refused) && refused.Status == http.StatusTooManyRequests {
			break
		}
		if err != nil {
			return fmt.Errorf("look-up %d: %w", admitted, err)
		}
		if admitted++; admitted == s.Limit {
			reached = time.Now()
		}
		bar.Add(1)
	}
	refusal := time.Now()
	bar.Done()
	wg.Wait()
	if watching != nil {
		return watching
	}
	if reached.IsZero() {
		return fmt.Errorf("refused after %d look-ups, before the limit of %d", admitted, s.Limit)
	}
	for _, e := range crossed {
		s.out.Thresholds = append(s.out.Thresholds, e.ThresholdUnits*100/e.Limit)
	}
	if want := []int64{80, 100}; !slices.Equal(s.out.Thresholds, want) {
		return fmt.Errorf("thresholds crossed: %v percent, want %v, each once", s.out.Thresholds, want)
	}
	s.out.Took.Refusal, s.out.Took.Overshoot = refusal.Sub(reached), int64(admitted-s.Limit)
	s.Teller.Say("account %s passed 80 %% and 100 %% of its contract; the API answered 429 %d ms after the crossing call, %d calls too late",
		s.Account, s.out.Took.Refusal.Milliseconds(), s.out.Took.Overshoot)
	return nil
}

// counted waits until each account's count of written records is what the story has written.
func (s *story) counted(ctx context.Context) error {
	want := map[string]int64{}
	for account, n := range s.wrote {
		if n > 0 {
			want[account] = n
		}
	}
	from, err := markNow(ctx, s.stack, schemas.UsageCounts)
	if err != nil {
		return err
	}
	for p := range from {
		from[p] = 0
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	got := map[string]int64{}
	err = watch(ctx, s.stack, schemas.UsageCounts, from, func(_ *kgo.Record, c *event.UsageCount) (bool, error) {
		if c.Pack != packResolve || c.Period != "total" {
			return false, nil
		}
		got[c.Account] = c.Matched
		if c.Matched > want[c.Account] {
			return false, fmt.Errorf("account %s: %d written records were counted, but only %d were written", c.Account, c.Matched, want[c.Account])
		}
		for account, n := range want {
			if got[account] != n {
				return false, nil
			}
		}
		return true, nil
	})
	if err != nil {
		return fmt.Errorf("counted %v, wrote %v: %w", got, want, err)
	}
	s.out.Counted = got
	s.Teller.Say("usage counts agree with what was written: %v", got)
	return nil
}
