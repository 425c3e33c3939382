package verify

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

// read calls each with every committed record of a topic, one partition after the other, in the order of offsets.
func (v *verifier) read(ctx context.Context, topic string, each func(*kgo.Record) error) error {
	ends, err := v.admin.ListEndOffsets(ctx, topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return fmt.Errorf("reading %s: %w", topic, err)
	}
	for p, end := range ends[topic] {
		if end.Offset == 0 {
			continue
		}
		if err := v.partition(ctx, topic, p, end.Offset, each); err != nil {
			return fmt.Errorf("reading %s: %w", topic, err)
		}
	}
	return nil
}

func (v *verifier) partition(ctx context.Context, topic string, p int32, end int64, each func(*kgo.Record) error) error {
	from := map[string]map[int32]kgo.Offset{topic: {p: kgo.NewOffset().AtStart()}}
	c, err := kgo.NewClient(append(append([]kgo.Opt{}, v.o.Kafka...), kgo.ConsumePartitions(from), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords())...)
	if err != nil {
		return err
	}
	defer c.Close()
	limited, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for at := int64(0); at < end; {
		fetches := c.PollFetches(limited)
		if limited.Err() != nil {
			return fmt.Errorf("partition %d is read up to %d of %d: an open transaction? %w", p, at, end, limited.Err())
		}
		var failed error
		fetches.EachRecord(func(rec *kgo.Record) {
			at = rec.Offset + 1
			if !rec.Attrs.IsControl() && failed == nil {
				failed = each(rec)
			}
		})
		if failed != nil {
			return failed
		}
	}
	return nil
}

// evidence compares identity.observations: one for each accepted version, the newest one that of the row.
func (v *verifier) evidence(ctx context.Context) error {
	serde := codec.For[event.Observation](v.codec, schemas.IdentityObservations)
	count, newest := map[string]int{}, map[string]string{}
	err := v.read(ctx, schemas.IdentityObservations, func(rec *kgo.Record) error {
		v.report.Observations++
		var o event.Observation
		if err := serde.Decode(ctx, rec.Value, &o); err != nil {
			return err
		}
		text := string(o.Relation) + " " + fmt.Sprint(o.FirstSeen.UnixMilli())
		for _, i := range o.Identifiers {
			text += fmt.Sprintf(" %s:%x", i.Kind, i.Hash)
		}
		count[string(rec.Key)]++
		newest[string(rec.Key)] = text
		return nil
	})
	if err != nil {
		return err
	}
	for key, s := range v.states {
		switch n := count[key]; {
		case n < s.accepted:
			v.lost("%s: %d observations of %d versions", key, n, s.accepted)
		case n > s.accepted:
			v.double("%s: %d observations of %d versions", key, n, s.accepted)
		}
		text := fmt.Sprint("WITHDRAWN ", s.first.UnixMilli())
		if !s.row.Deleted {
			text = fmt.Sprint("TOGETHER ", s.first.UnixMilli())
			last := s.recent[len(s.recent)-1].id
			ids := v.pepper.identifiers(s.row.Account, s.row.RecordKey, v.o.Sent[last].Fields)
			for _, i := range ids[:len(ids)-1] {
				text += fmt.Sprintf(" %s:%x", i.kind, i.hash)
			}
		}
		if newest[key] != text {
			v.lost("%s: newest observation %q, want %q", key, newest[key], text)
		}
		delete(count, key)
	}
	for key := range count {
		v.double("%s: evidence of a record that is not on the Databus", key)
	}
	return nil
}

// resolutions compares identity.resolutions: exactly one answer, and one record, for each request on the topic.
func (v *verifier) resolutions(ctx context.Context) error {
	serde := codec.For[event.Resolution](v.codec, schemas.IdentityResolutions)
	count := map[string]int{}
	err := v.read(ctx, schemas.IdentityResolutions, func(rec *kgo.Record) error {
		v.report.Resolutions++
		var e event.Resolution
		if err := serde.Decode(ctx, rec.Value, &e); err != nil {
			return err
		}
		count[e.RequestID]++
		sent := v.o.Sent[e.RequestID]
		key := v.pepper.recordKey(sent.Account, sent.RecordID)
		want := fmt.Sprint(sent.Account, " ", key, " DELETED ", "", "", e.Problem)
		if !sent.Delete {
			fcid, person := v.pepper.person(sent.Account, v.pepper.identifiers(sent.Account, key, sent.Fields))
			want = fmt.Sprint(sent.Account, " ", key, " RESOLVED ", fcid, person)
		}
		if have := fmt.Sprint(e.Account, " ", e.RecordKey, " ", e.Outcome, " ", text(e.Fcid), text(e.PersonID), e.Problem); have != want {
			v.problem("request %s was answered with %s, want %s", e.RequestID, have, want)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for id, sent := range v.o.Sent {
		if !sent.Topic {
			continue
		}
		for what, n := range map[string]int{"answers": count[id], "records on the Databus": v.onLog[id]} {
			if n < 1 {
				v.lost("request %s has %d %s", id, n, what)
			} else if n > 1 {
				v.double("request %s has %d %s", id, n, what)
			}
		}
		delete(count, id)
	}
	for id := range count {
		v.double("request %s was answered on the topic, where nobody sent it", id)
	}
	return nil
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// dead expects no dead letters: everything that was sent is good.
func (v *verifier) dead(ctx context.Context) error {
	for _, topic := range []string{schemas.DatabusRecords, schemas.IdentityRequests} {
		err := v.read(ctx, topic+".dlq", func(rec *kgo.Record) error {
			v.report.DeadLetters++
			var reasons []string
			for _, h := range rec.Headers {
				reasons = append(reasons, h.Key+"="+string(h.Value))
			}
			v.problem("dead letter of %s: %s", topic, strings.Join(reasons, ", "))
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
