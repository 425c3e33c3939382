package ingest

import (
	"context"
	"maps"
	"slices"
	"testing"

	"databus/test/ingest/verify"
)

const notAnswered = "a request without an answer on the topic"

// notices proves that the verifier would have seen it: each kind of damage, done to what was sent, told or stored.
func (w *world) notices(t *testing.T, l *load) {
	good := verify.Options{Kafka: w.opts, Registry: w.registry, KeyFile: w.keyFile, Sent: l.sent, Acks: l.acks, Rows: w.rows}
	// rows changes the n-th row of a table that holds somebody.
	rows := func(table string, change func(r verify.Row) []verify.Row) func(context.Context, string, func(verify.Row) error) error {
		return func(ctx context.Context, name string, each func(verify.Row) error) error {
			done := name != table
			return w.rows(ctx, name, func(r verify.Row) error {
				if done || r.Deleted {
					return each(r)
				}
				done = true
				for _, r := range change(r) {
					if err := each(r); err != nil {
						return err
					}
				}
				return nil
			})
		}
	}
	acks := func(change func(a *verify.Ack)) []verify.Ack {
		all := slices.Clone(l.acks)
		change(&all[len(all)/2])
		return all
	}
	for _, c := range []struct {
		name         string
		change       func(o *verify.Options)
		lost, double bool
	}{
		{"an acknowledgement of another place", func(o *verify.Options) { o.Acks = acks(func(a *verify.Ack) { a.Offset += 1_000_000 }) }, true, false},
		{"an acknowledgement of what is not there", func(o *verify.Options) { o.Acks = acks(func(a *verify.Ack) { a.RequestID = "request-x" }) }, true, false},
		{"a request that never arrived", func(o *verify.Options) {
			o.Sent = maps.Clone(o.Sent)
			o.Sent["request-x"] = verify.Sent{Account: "account-0", RecordID: "record/0"}
		}, true, false},
		{notAnswered, func(o *verify.Options) {
			o.Sent = maps.Clone(o.Sent)
			for id, s := range o.Sent {
				if !s.Topic {
					s.Topic = true
					o.Sent[id] = s
					break
				}
			}
		}, true, false},
		{"a row that is missing", func(o *verify.Options) {
			o.Rows = rows(verify.ByKey, func(verify.Row) []verify.Row { return nil })
		}, true, false},
		{"a row that a move left behind", func(o *verify.Options) {
			o.Rows = rows(verify.ByPerson, func(r verify.Row) []verify.Row {
				old := r
				old.PersonID = "00000000-0000-8000-8000-000000000000"
				return []verify.Row{r, old}
			})
		}, false, true},
		{"a row of an older version", func(o *verify.Options) {
			o.Rows = rows(verify.ByFCID, func(r verify.Row) []verify.Row { r.Version--; return []verify.Row{r} })
		}, true, false},
		{"a row of a later version", func(o *verify.Options) {
			o.Rows = rows(verify.ByFCID, func(r verify.Row) []verify.Row { r.Version++; return []verify.Row{r} })
		}, false, true},
		{"a payload with another byte", func(o *verify.Options) {
			o.Rows = rows(verify.ByPerson, func(r verify.Row) []verify.Row {
				r.Sealed = append(slices.Clone(r.Sealed[:len(r.Sealed)-1]), r.Sealed[len(r.Sealed)-1]^1)
				return []verify.Row{r}
			})
		}, true, false},
		{"a request id that was forgotten", func(o *verify.Options) {
			o.Rows = rows(verify.ByKey, func(r verify.Row) []verify.Row { r.Recent = r.Recent[:len(r.Recent)-24]; return []verify.Row{r} })
		}, true, false},
	} {
		o := good
		c.change(&o)
		r, err := verify.Verify(t.Context(), o)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		// A request that the API got may be there twice, which on the topic would be double as well.
		if r.Err() == nil || (r.Lost > 0) != c.lost || (r.Double > 0) != c.double && c.name != notAnswered {
			t.Errorf("%s: %d lost, %d double, %v", c.name, r.Lost, r.Double, r.Err())
		}
	}
}
