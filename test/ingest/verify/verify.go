package verify

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

// Sent is what a caller meant by a request id. Fields are in their normal form: national_id upper-case letters and digits,
// email lower case at a domain without rules of its own, phone E.164.
type Sent struct {
	Account, RecordID string
	Fields            map[string]string
	Delete            bool
	// Topic says that the request went to identity.requests, else to the API or the Databus.
	Topic bool
}

// Ack is what a caller was told.
type Ack struct {
	RequestID string
	Partition int32
	Offset    int64
	// FCID and PersonID as answered; empty for a delete.
	FCID, PersonID string
}

// Options say what to verify.
type Options struct {
	Kafka    []kgo.Opt
	Registry string
	KeyFile  string
	// Sent by request id; Acks in any order.
	Sent map[string]Sent
	Acks []Ack
	// Rows calls each for every row of a table.
	Rows func(ctx context.Context, table string, each func(Row) error) error
}

// Report is what was read, and what is wrong with it.
type Report struct {
	Records, Repeats, Versions, Acks, Keys, Moves, Rows, Observations, Resolutions, DeadLetters int
	// SameMillisecond counts A -> B -> A of one record within one millisecond of append time.
	SameMillisecond int

	Lost, Double int
	Problems     []string // the first ones
}

const maxProblems = 40

// Err is nil if nothing is wrong.
func (r *Report) Err() error {
	if r.Lost == 0 && r.Double == 0 && len(r.Problems) == 0 {
		return nil
	}
	return fmt.Errorf("%d lost, %d double:\n  %s", r.Lost, r.Double, strings.Join(r.Problems, "\n  "))
}

func (r *Report) String() string {
	return fmt.Sprintf("%d records on the Databus (%d repeats, %d moves, %d times A -> B -> A in a millisecond) of %d record keys, %d acknowledgements, %d rows in three tables, "+
		"%d observations, %d resolutions: %d lost, %d double", r.Records, r.Repeats, r.Moves, r.SameMillisecond, r.Keys, r.Acks, r.Rows, r.Observations, r.Resolutions, r.Lost, r.Double)
}

type verifier struct {
	o      Options
	pepper pepper
	codec  *codec.Codec
	admin  *kadm.Client
	report *Report

	states map[string]*state
	placed map[string]string // request id by partition and offset
	onLog  map[string]int    // records by request id
}

// Verify reads everything and compares. It keeps a whole run in memory.
func Verify(ctx context.Context, o Options) (*Report, error) {
	client, err := kgo.NewClient(o.Kafka...)
	if err != nil {
		return nil, fmt.Errorf("verifying: %w", err)
	}
	defer client.Close()
	v := &verifier{o: o, codec: codec.New(codec.NewRegistry(o.Registry), codec.Options{}), admin: kadm.NewClient(client), report: &Report{},
		states: map[string]*state{}, placed: map[string]string{}, onLog: map[string]int{}}
	if v.pepper, err = readPepper(o.KeyFile); err != nil {
		return nil, fmt.Errorf("verifying: %w", err)
	}
	for _, step := range []func(context.Context) error{v.log, v.acknowledged, v.tables, v.evidence, v.resolutions, v.dead} {
		if err := step(ctx); err != nil {
			return v.report, fmt.Errorf("verifying: %w", err)
		}
	}
	return v.report, nil
}

func (v *verifier) problem(format string, args ...any) {
	if len(v.report.Problems) < maxProblems {
		v.report.Problems = append(v.report.Problems, fmt.Sprintf(format, args...))
	}
}

func (v *verifier) lost(format string, args ...any) {
	v.report.Lost++
	v.problem("lost: "+format, args...)
}

func (v *verifier) double(format string, args ...any) {
	v.report.Double++
	v.problem("double: "+format, args...)
}

// log folds databus.records.
func (v *verifier) log(ctx context.Context) error {
	serde := codec.For[event.DatabusRecord](v.codec, schemas.DatabusRecords)
	var last [2]*version // of the partition that is being read, to find A -> B -> A
	err := v.read(ctx, schemas.DatabusRecords, func(rec *kgo.Record) error {
		v.report.Records++
		var e event.DatabusRecord
		if err := serde.Decode(ctx, rec.Value, &e); err != nil {
			return fmt.Errorf("partition %d, offset %d: %w", rec.Partition, rec.Offset, err)
		}
		in := &version{account: e.Account, recordKey: e.RecordKey, requestID: e.RequestID, deleted: e.Kind == event.RecordKindDelete,
			keyID: e.KeyID, schema: e.PayloadSchema, sealed: e.Sealed, offset: rec.Offset, appended: rec.Timestamp}
		v.placed[place(rec.Partition, rec.Offset)] = e.RequestID
		v.onLog[e.RequestID]++
		sent, ok := v.o.Sent[e.RequestID]
		if !ok {
			v.problem("partition %d, offset %d: nobody sent request %s", rec.Partition, rec.Offset, e.RequestID)
			return nil
		}
		if key := v.pepper.recordKey(sent.Account, sent.RecordID); e.Account != sent.Account || e.RecordKey != key || in.deleted != sent.Delete || string(rec.Key) != sent.Account+"/"+key {
			v.problem("partition %d, offset %d: request %s became another record", rec.Partition, rec.Offset, e.RequestID)
		}
		s := v.states[string(rec.Key)]
		if s == nil {
			s = &state{}
			v.states[string(rec.Key)] = s
		}
		fcid, person := v.pepper.person(in.account, v.pepper.identifiers(in.account, in.recordKey, sent.Fields))
		before := s.row
		if !s.fold(in, fcid, person) {
			v.report.Repeats++
			return nil
		}
		v.report.Versions++
		if before.FCID != "" && before.FCID != s.row.FCID {
			v.report.Moves++
		}
		if a, b := last[0], last[1]; a != nil && b != nil && a.recordKey == b.recordKey && b.recordKey == in.recordKey &&
			a.appended.Equal(in.appended) && v.o.Sent[a.requestID].Fields["email"] == sent.Fields["email"] && v.o.Sent[b.requestID].Fields["email"] != sent.Fields["email"] {
			v.report.SameMillisecond++
		}
		last[0], last[1] = last[1], in
		if s.ever[in.requestID] > 1 {
			v.double("request %s was accepted %d times", in.requestID, s.ever[in.requestID])
		}
		return nil
	})
	v.report.Keys = len(v.states)
	return err
}

func place(partition int32, offset int64) string { return fmt.Sprint(partition, "/", offset) }

// acknowledged looks for every acknowledged record where the caller was told that it is.
func (v *verifier) acknowledged(context.Context) error {
	for _, a := range v.o.Acks {
		v.report.Acks++
		if have := v.placed[place(a.Partition, a.Offset)]; have != a.RequestID {
			v.lost("request %s was acknowledged at partition %d, offset %d, where there is %q", a.RequestID, a.Partition, a.Offset, have)
		}
		sent := v.o.Sent[a.RequestID]
		if sent.Delete {
			continue
		}
		ids := v.pepper.identifiers(sent.Account, v.pepper.recordKey(sent.Account, sent.RecordID), sent.Fields)
		if fcid, person := v.pepper.person(sent.Account, ids); fcid != a.FCID || person != a.PersonID {
			v.problem("request %s was answered with FCID %s and PersonID %s, want %s and %s", a.RequestID, a.FCID, a.PersonID, fcid, person)
		}
	}
	for id := range v.o.Sent {
		if v.onLog[id] == 0 {
			v.lost("request %s is not on the Databus", id)
		}
	}
	return nil
}

// tables compares every row.
func (v *verifier) tables(ctx context.Context) error {
	for _, table := range Tables {
		want := map[string]Row{}
		for _, s := range v.states {
			if key, row, ok := s.row.in(table); ok {
				want[key] = row
			}
		}
		err := v.o.Rows(ctx, table, func(have Row) error {
			v.report.Rows++
			key, _, _ := have.in(table)
			w, ok := want[key]
			delete(want, key)
			switch {
			case !ok:
				v.double("%s: row %v, want none", table, have)
			case w.String() != have.String() && have.Version > w.Version:
				v.double("%s: row %v, want %v", table, have, w)
			case w.String() != have.String():
				v.lost("%s: row %v, want %v", table, have, w)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("reading %s: %w", table, err)
		}
		for _, key := range slices.Sorted(maps.Keys(want)) {
			v.lost("%s: no row, want %v", table, want[key])
		}
	}
	return nil
}
