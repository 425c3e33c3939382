package verify

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kadm"

	"databus/pkg/state"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

// state compares the rows of every instance with the model. A partition's rows may be behind what its group has
// committed, where another instance went on; they must never be ahead, and one instance must be up to date.
func (v *verifier) state(ctx context.Context) error {
	current := map[string]bool{} // group/partition
	for _, dir := range v.o.Instances {
		group, instance, _, err := state.Owner(nil, dir)
		if err != nil {
			return err
		}
		offsets, err := v.admin.FetchOffsets(ctx, group)
		if err != nil {
			return fmt.Errorf("asking for offsets of group %s: %w", group, err)
		}
		db, err := state.Open(state.Options{Dir: dir, Service: group, Instance: instance, ReadOnly: true, CacheBytes: 16 << 20})
		if err != nil {
			return err
		}
		partitions, err := db.Partitions()
		for _, p := range partitions {
			if err != nil {
				break
			}
			var pos state.Position
			if pos, _, err = db.Position(p); err != nil || !v.upToDate(group, instance, p, pos, offsets) {
				continue
			}
			current[fmt.Sprint(group, "/", p)] = true
			err = v.rows(ctx, db, group, instance, p)
		}
		if closing := db.Close(); err == nil {
			err = closing
		}
		if err != nil {
			return err
		}
	}
	if len(v.o.Instances) == 0 {
		return nil
	}
	for group := range groups {
		need := map[int32]bool{}
		for _, a := range v.accounts {
			need[a.partition] = true
		}
		for p := range need {
			if !current[fmt.Sprint(group, "/", p)] {
				v.problem("no instance of %s has up-to-date rows of partition %d", group, p)
			}
		}
	}
	return nil
}

func (v *verifier) upToDate(group, instance string, p int32, pos state.Position, offsets kadm.OffsetResponses) bool {
	equal := len(pos.Inputs) > 0
	for topic, at := range pos.Inputs {
		o, ok := offsets.Lookup(topic, p)
		if !ok || at > o.At {
			v.problem("%s %s, partition %d: the local state is at %d of %s and the group at %d", group, instance, p, at, topic, o.At)
		}
		equal = equal && at == o.At
	}
	for _, topic := range groups[group] {
		if o, ok := offsets.Lookup(topic, p); ok && o.At >= 0 && pos.Inputs[topic] != o.At {
			equal = false
		}
	}
	return equal
}

// rows compares one partition's rows.
func (v *verifier) rows(ctx context.Context, db *state.DB, group, instance string, p int32) error {
	r, err := db.NewReader(p)
	if err != nil {
		return err
	}
	defer r.Close()
	want := map[string]string{}
	store, decode := "counts", v.countRow(ctx)
	if group == "limiter" {
		store, decode = "crossed", crossedRow
		for key, c := range v.crossed {
			if v.accounts[accountOf(key)].partition == p {
				want[key] = c.String()
			}
		}
	} else {
		for key, c := range v.counts {
			if c.period.id != "" && v.accounts[c.account].partition == p {
				want[key] = c.String()
			}
		}
	}
	err = r.Scan(store, nil, func(key, value []byte) bool {
		v.report.Rows++
		have := decode(value)
		switch w, ok := want[string(key)]; {
		case !ok:
			v.double("row %s of %s %s: %s, want none", key, group, instance, have)
		case w != have:
			v.missing("row %s of %s %s: %s, want %s", key, group, instance, have, w)
		}
		delete(want, string(key))
		return true
	})
	for _, key := range slices.Sorted(maps.Keys(want)) {
		v.missing("row %s of %s %s: none, want %s", key, group, instance, want[key])
	}
	return err
}

func accountOf(key string) string {
	for i := range key {
		if key[i] == '/' {
			return key[:i]
		}
	}
	return key
}

// countRow reads a row of the aggregator: a UsageCount as in usage.counts.
func (v *verifier) countRow(ctx context.Context) func([]byte) string {
	counts := codec.For[event.UsageCount](v.codec, schemas.UsageCounts)
	return func(b []byte) string {
		var e event.UsageCount
		if err := counts.Decode(ctx, b, &e); err != nil {
			return "a row that does not decode: " + err.Error()
		}
		if e.Provisional || e.Estimated {
			return "a provisional row"
		}
		c := countOf(&e)
		return c.String()
	}
}

func (c crossed) String() string {
	var all []string
	for l := range c.levels {
		all = append(all, fmt.Sprint(l))
	}
	slices.Sort(all)
	return fmt.Sprint(c.limit, all, c.over)
}

// crossedRow reads a row of the limiter: version 1, or 2 where the period is over; the limit; then for each crossed
// threshold 1 for percent or 0, and its value.
func crossedRow(b []byte) string {
	if len(b) == 0 || b[0] != 1 && b[0] != 2 {
		return "a row of an unknown version"
	}
	limit, size := binary.Varint(b[1:])
	if size <= 0 {
		return "a row that is cut off"
	}
	c := crossed{limit, map[level]bool{}, b[0] == 2}
	for b = b[1+size:]; len(b) > 0; {
		value, size := binary.Varint(b[1:])
		if size <= 0 {
			return "a row that is cut off"
		}
		c.levels[level{b[0] == 1, value}] = true
		b = b[1+size:]
	}
	return c.String()
}
