package archive

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"

	"databus/pkg/blob"
)

// ErrLayout: a topic's objects were begun with another layout.
var ErrLayout = errors.New("the topic is archived with another layout")

// Layout is what has to stay the same for all objects of a topic: how they are named and what is in them beside their
// records. It is frozen in an object of its own when the topic is archived first.
type Layout struct {
	// Topic whose objects these are.
	Topic string `json:"topic"`
	// Names is the form of the objects' keys behind prefix and topic.
	Names string `json:"names"`
	// KeyFilter: row groups have a bloom filter of _key. It pays where keys are many: for a topic keyed by record, but not
	// for one keyed by account, of which each row group holds all.
	KeyFilter bool `json:"key_filter"`
	// SortBy names the column by which rows are sorted inside a row group, where the schema of an object has it: see Sortable.
	// Empty is by offset alone.
	SortBy string `json:"sort_by,omitempty"`
}

// layoutNames is the one form that this package writes.
const layoutNames = "dt=YYYY-MM-DD/hr=HH/topic+partition+first.parquet"

// NewLayout is the layout of a topic that this package writes.
func NewLayout(topic string, keyFilter bool) Layout {
	return Layout{Topic: topic, Names: layoutNames, KeyFilter: keyFilter}
}

// LayoutName is the key of a topic's layout. It begins with an underscore, so that engines leave it out.
func LayoutName(prefix, topic string) string { return path.Join(prefix, topic, "_layout.json") }

// Freeze makes a layout the topic's own, or makes sure that it is: ErrLayout names what differs. It may be called
// concurrently, also by several processes; one of different layouts wins.
func Freeze(ctx context.Context, bucket blob.Bucket, prefix string, l Layout) error {
	want, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return fmt.Errorf("freezing the layout of %s: %w", l.Topic, err)
	}
	key := LayoutName(prefix, l.Topic)
	_, err = bucket.Put(ctx, key, bytes.NewReader(append(want, '\n')), blob.PutOptions{CreateOnly: true})
	if err == nil {
		return nil
	}
	if !errors.Is(err, blob.ErrExists) {
		return fmt.Errorf("freezing the layout of %s: %w", l.Topic, err)
	}
	is, _, err := blob.ReadAll(ctx, bucket, key, 64<<10)
	if err != nil {
		return fmt.Errorf("reading the layout of %s: %w", l.Topic, err)
	}
	var frozen Layout
	d := json.NewDecoder(bytes.NewReader(is))
	d.DisallowUnknownFields() // a later version's, which means something to its objects
	if err := d.Decode(&frozen); err != nil {
		return fmt.Errorf("%w: %s in %s cannot be understood: %w", ErrLayout, key, bucket, err)
	}
	var differs []string
	if frozen.Topic != l.Topic {
		differs = append(differs, fmt.Sprintf("it is of topic %s", frozen.Topic))
	}
	if frozen.Names != l.Names {
		differs = append(differs, fmt.Sprintf("names are %s, not %s", frozen.Names, l.Names))
	}
	if frozen.KeyFilter != l.KeyFilter {
		differs = append(differs, fmt.Sprintf("key_filter is %t, not %t", frozen.KeyFilter, l.KeyFilter))
	}
	if frozen.SortBy != l.SortBy {
		differs = append(differs, fmt.Sprintf("sort_by is %q, not %q", frozen.SortBy, l.SortBy))
	}
	if len(differs) > 0 {
		return fmt.Errorf("%w: in %s %s", ErrLayout, key, strings.Join(differs, ", "))
	}
	return nil
}
