package story

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"databus/cmd/databus/internal/load"
)

// What is written while a database is rebuilt.
const (
	writes     = 300
	writePause = 15 * time.Millisecond
)

// write changes records while a rebuild goes on: updates, moves to another person, deletions, and requests that are sent
// twice. The writes are the same for the same source. started is closed after a few of them.
func (s *story) write(ctx context.Context, started chan<- struct{}) error {
	chosen, err := s.choose()
	if err != nil {
		return err
	}
	for i, r := range chosen {
		if i == len(chosen)/10 {
			close(started)
		}
		r.RequestID = fmt.Sprintf("change/%d", i)
		switch i % 10 {
		case 0:
			r.Delete, r.Fields = true, nil
		case 1, 2, 3: // moves to whom the next chosen record belongs
			r.Fields = chosen[(i+1)%len(chosen)].Fields
		default:
			r.Fields["note"] = fmt.Sprintf("changed %d", i)
		}
		times := 1
		if i%5 == 4 {
			times = 2 // a repeat changes nothing
		}
		for range times {
			result, err := s.api.Put(ctx, r.Account, r.Record, false)
			if err != nil {
				return fmt.Errorf("change %d: %w", i, err)
			}
			s.ends.add(result.Partition, result.Offset+1)
		}
		s.wrote[r.Account]++
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(writePause):
		}
	}
	return nil
}

// choose takes records spread over the source.
func (s *story) choose() ([]load.Record, error) {
	source, err := s.Source()
	if err != nil {
		return nil, err
	}
	every := max(1, int(s.out.Records)/writes)
	var chosen []load.Record
	for i := 0; ; i++ {
		r, err := source.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if i%every == 0 && len(chosen) < writes && r.RecordID != s.sample.RecordID {
			chosen = append(chosen, r)
		}
	}
	if len(chosen) < 10 {
		return nil, fmt.Errorf("%d records are too few to change some", len(chosen))
	}
	return chosen, nil
}
