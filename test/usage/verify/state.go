package verify

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kadm"

	"databus/pkg/state"
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
			err = v.rows(db, group, instance, p)
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
func (v *verifier) rows(db *state.DB, group, instance string, p int32) error {
	r, err := db.NewReader(p)
	if err != nil {
		return err
	}
	defer r.Close()
	want := map[string]string{}
	store, decode := "counts", countRow
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

// countRow reads a row of the aggregator: version 2; start, end, contract version, matched, unmatched, amount and append
// time as varints; 1 where it is provisional; the number of providers; of each the length of its name, the name, and
// matched, unmatched and amount as varints.
func countRow(b []byte) string {
	const cut = "a row that is cut off"
	if len(b) == 0 || b[0] != 2 {
		return "a row of an unknown version"
	}
	b = b[1:]
	numbers := func(n []int64) bool {
		for i := range n {
			value, size := binary.Varint(b)
			if size <= 0 {
				return false
			}
			n[i], b = value, b[size:]
		}
		return true
	}
	var n [7]int64
	if !numbers(n[:]) || len(b) < 2 {
		return cut
	}
	c := count{period: span{start: n[0], end: n[1]}, version: n[2], sums: sums{n[3], n[4], n[5]}, updated: n[6], providers: map[string]sums{}}
	if b[0] != 0 {
		return "a provisional row"
	}
	parts := int(b[1])
	b = b[2:]
	for range parts {
		if len(b) == 0 || len(b) <= int(b[0]) {
			return cut
		}
		name := string(b[1 : 1+b[0]])
		b = b[1+b[0]:]
		var n [3]int64
		if !numbers(n[:]) {
			return cut
		}
		c.providers[name] = sums{n[0], n[1], n[2]}
	}
	return c.String()
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
