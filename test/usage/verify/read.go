package verify

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

// read calls each with every committed record of a topic, by partition in the order of offsets.
func (v *verifier) read(ctx context.Context, topic string, each func(*kgo.Record) error) error {
	ends, err := v.admin.ListEndOffsets(ctx, topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return fmt.Errorf("reading %s: %w", topic, err)
	}
	left := map[int32]int64{}
	from := map[int32]kgo.Offset{}
	for p, o := range ends[topic] {
		if o.Offset > 0 {
			left[p], from[p] = o.Offset, kgo.NewOffset().AtStart()
		}
	}
	if len(left) == 0 {
		return nil
	}
	c, err := kgo.NewClient(append(append([]kgo.Opt{}, v.o.Kafka...), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: from}),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords())...)
	if err != nil {
		return fmt.Errorf("reading %s: %w", topic, err)
	}
	defer c.Close()
	last := time.Now()
	for len(left) > 0 {
		poll, cancel := context.WithTimeout(ctx, time.Second)
		fetches := c.PollFetches(poll)
		cancel()
		if ctx.Err() != nil {
			return fmt.Errorf("reading %s: %w", topic, ctx.Err())
		}
		var failed error
		fetches.EachRecord(func(rec *kgo.Record) {
			last = time.Now()
			if rec.Offset+1 >= left[rec.Partition] {
				delete(left, rec.Partition)
			}
			if !rec.Attrs.IsControl() && failed == nil {
				failed = each(rec)
			}
		})
		if failed != nil {
			return fmt.Errorf("reading %s: %w", topic, failed)
		}
		if time.Since(last) > time.Minute {
			return fmt.Errorf("reading %s: no record for a minute and %d partitions have not been read to their ends: an open transaction?", topic, len(left))
		}
	}
	return nil
}

func (v *verifier) account(name string, partition int32) *account {
	a := v.accounts[name]
	if a == nil {
		a = &account{name: name, partition: partition}
		v.accounts[name] = a
	}
	if a.partition != partition {
		v.problem("account %s has records in partitions %d and %d", name, a.partition, partition)
	}
	return a
}

func place(rec *kgo.Record) cause { return cause{rec.Topic, rec.Partition, rec.Offset} }

func (c cause) String() string {
	return c.topic + "/" + strconv.Itoa(int(c.partition)) + "/" + strconv.FormatInt(c.offset, 10)
}

// readInputs fills the accounts with events and contracts, and notes which records must be dead letters.
func (v *verifier) readInputs(ctx context.Context) error {
	events := codec.For[event.UsageEvent](v.codec, schemas.UsageEvents)
	unread := true
	each := func(rec *kgo.Record) error {
		v.report.Events++
		var e event.UsageEvent
		if err := events.Decode(ctx, rec.Value, &e); err != nil && !codec.IsPoison(err) {
			return err
		} else if err != nil || !acceptable(&e, string(rec.Key), rec.Timestamp) {
			if !unread {
				v.dead["usage-aggregator "+place(rec).String()]++
			}
			return nil
		}
		provider := ""
		if e.Provider != nil {
			provider = *e.Provider
		}
		a := v.account(e.Account, rec.Partition)
		a.events = append(a.events, usageEvent{id: e.EventID, pack: e.Pack, provider: provider, occurred: e.OccurredAt, quantity: e.Quantity, amount: e.AmountMicros,
			matched: e.Status == 200, appended: rec.Timestamp, offset: rec.Offset, unread: unread})
		return nil
	}
	for _, rec := range v.o.Deleted {
		if err := each(rec); err != nil {
			return err
		}
	}
	unread = false
	err := v.read(ctx, schemas.UsageEvents, each)
	if err != nil {
		return err
	}
	contracts := codec.For[event.Contract](v.codec, schemas.UsageContracts)
	return v.read(ctx, schemas.UsageContracts, func(rec *kgo.Record) error {
		r := contractRecord{appended: rec.Timestamp, cause: place(rec)}
		if rec.Value != nil {
			var e event.Contract
			err := contracts.Decode(ctx, rec.Value, &e)
			if err != nil && !codec.IsPoison(err) {
				return err
			}
			if err == nil {
				r.contract = newContract(e, string(rec.Key))
			}
			if r.contract == nil { // both services refuse it
				v.dead["usage-aggregator "+place(rec).String()]++
				v.dead["limiter "+place(rec).String()]++
				return nil
			}
		}
		v.report.Contracts++
		a := v.account(string(rec.Key), rec.Partition)
		a.contracts = append(a.contracts, r)
		return nil
	})
}

// readCounts reads the published counts, in their committed sequence.
func (v *verifier) readCounts(ctx context.Context) error {
	counts := codec.For[event.UsageCount](v.codec, schemas.UsageCounts)
	return v.read(ctx, schemas.UsageCounts, func(rec *kgo.Record) error {
		v.report.Counts++
		if rec.Value == nil {
			v.problem("count %s was deleted, although no period ended so long ago", rec.Key)
			return nil
		}
		var e event.UsageCount
		if err := counts.Decode(ctx, rec.Value, &e); err != nil {
			return err
		}
		p := publishedCount{appended: rec.Timestamp, cause: place(rec), count: countOf(&e)}
		if p.key() != string(rec.Key) {
			return errors.New("the record's key is not the count's")
		}
		if e.Estimated || e.Provisional && !v.o.History {
			v.problem("count %s in %s is provisional or estimated, although no history was asked for", p.key(), p.cause)
		}
		a := v.account(e.Account, rec.Partition)
		p.provisional = e.Provisional
		a.published = append(a.published, p)
		return nil
	})
}

func countOf(e *event.UsageCount) count {
	c := count{account: e.Account, pack: e.Pack, version: e.ContractVersion, period: span{e.Period, e.PeriodStart.UnixMicro(), micros(e.PeriodEnd)},
		sums: sums{e.Matched, e.Unmatched, e.AmountMicros}, updated: e.UpdatedAt.UnixMicro()}
	for _, part := range e.Providers {
		if c.providers == nil {
			c.providers = map[string]sums{}
		}
		c.providers[part.Provider] = sums{part.Matched, part.Unmatched, part.AmountMicros}
	}
	return c
}

// readDead compares the dead letters of both services with what must have been refused.
func (v *verifier) readDead(ctx context.Context) error {
	for _, topic := range []string{schemas.UsageEvents, schemas.UsageContracts, schemas.UsageCounts, schemas.UsageBaselines, schemas.UsageBaselineRequests} {
		err := v.read(ctx, topic+".dlq", func(rec *kgo.Record) error {
			v.report.DeadLetters++
			h := map[string]string{}
			for _, header := range rec.Headers {
				h[header.Key] = string(header.Value)
			}
			v.dead[fmt.Sprintf("%s %s/%s/%s", h["databus-dead-service"], h["databus-dead-topic"], h["databus-dead-partition"], h["databus-dead-offset"])]--
			return nil
		})
		if err != nil {
			return err
		}
	}
	v.balance("dead letter", v.dead)
	return nil
}

// readThresholds compares the threshold events with those that must have been announced.
func (v *verifier) readThresholds(ctx context.Context) error {
	thresholds := codec.For[event.ThresholdEvent](v.codec, schemas.UsageThresholds)
	err := v.read(ctx, schemas.UsageThresholds, func(rec *kgo.Record) error {
		v.report.Thresholds++
		var e event.ThresholdEvent
		if err := thresholds.Decode(ctx, rec.Value, &e); err != nil {
			return err
		}
		text := thresholdText(e.Account+"/"+e.Pack+"/"+e.Period, span{e.Period, e.PeriodStart.UnixMicro(), micros(e.PeriodEnd)}, string(e.Kind),
			level{e.ThresholdKind == event.ThresholdMeasurePercent, e.ThresholdValue}, e.ThresholdUnits, e.Count, e.Limit, e.ContractVersion, e.At.UnixMicro(),
			cause{e.CauseTopic, e.CausePartition, e.CauseOffset})
		v.thresholds[text]--
		if e.Kind == event.ThresholdEventKindCrossed {
			v.report.crossings[fmt.Sprintf("%s/%s/%s %s %d", e.Account, e.Pack, e.Period, e.ThresholdKind, e.ThresholdValue)]++
		}
		return nil
	})
	v.balance("threshold event", v.thresholds)
	return err
}

// readLimits compares the newest limit states with those that follow from counts and contracts.
func (v *verifier) readLimits(ctx context.Context) error {
	limits := codec.For[event.LimitState](v.codec, schemas.UsageLimits)
	newest := map[string]string{}
	err := v.read(ctx, schemas.UsageLimits, func(rec *kgo.Record) error {
		v.report.Limits++
		newest[string(rec.Key)] = ""
		if rec.Value == nil {
			delete(v.report.finalLimits, string(rec.Key))
			return nil
		}
		var e event.LimitState
		if err := limits.Decode(ctx, rec.Value, &e); err != nil {
			return err
		}
		newest[string(rec.Key)] = stateText(span{e.Period, e.PeriodStart.UnixMicro(), micros(e.PeriodEnd)}, e.Limit, e.Used, e.Remaining, string(e.State),
			e.ContractVersion, micros(e.ContractEndsAt), e.UpdatedAt.UnixMicro())
		v.report.finalLimits[string(rec.Key)] = fmt.Sprintf("%d of %d, %s", e.Used, e.Limit, e.State)
		return nil
	})
	if err != nil {
		return err
	}
	for key, want := range v.limits {
		have, ok := newest[key]
		if !ok {
			v.missing("limit state %s: none, want %s", key, want)
		} else if have != want {
			v.missing("limit state %s: %q, want %q", key, have, want)
		}
		delete(newest, key)
	}
	for key, have := range newest {
		v.double("limit state %s: %q, want none", key, have)
	}
	return nil
}
