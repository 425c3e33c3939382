package topics

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"databus/schemas"
)

// A Mismatch is one thing about a topic that is not as the catalogue says.
type Mismatch struct {
	Topic string
	// What is wrong: "topic", "partitions" or a configuration key.
	What string
	// Is and Want are the two values; Is is empty for a missing topic.
	Is, Want string
	// Next is what an operator does about it.
	Next string
}

func (m *Mismatch) Error() string {
	if m.What == missing {
		return fmt.Sprintf("topic %s is missing; %s", m.Topic, m.Next)
	}
	return fmt.Sprintf("topic %s: %s is %s, the catalogue wants %s; %s", m.Topic, m.What, m.Is, m.Want, m.Next)
}

const (
	missing    = "topic"
	partitions = "partitions"
)

// fatal says whether services must not work on such a topic. The others are repaired by Apply while services run.
func (m *Mismatch) fatal() bool {
	switch m.What {
	case missing, partitions, cleanupPolicy, timestampType:
		return true
	}
	return false
}

// Check returns an error that joins a *[Mismatch] for each thing that forbids work on the given topics: a missing topic,
// a wrong number of partitions, cleanup policy or timestamp type. A wrong retention does not; see [Compare].
func Check(ctx context.Context, adm *kadm.Client, catalogue []schemas.Topic) error {
	all, err := Compare(ctx, adm, catalogue)
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range all {
		if m.fatal() {
			errs = append(errs, m)
		}
	}
	return errors.Join(errs...)
}

// Compare returns everything that differs from the catalogue, in its order. Topics of the cluster that are not given are
// no concern of it.
func Compare(ctx context.Context, adm *kadm.Client, catalogue []schemas.Topic) ([]*Mismatch, error) {
	if len(catalogue) == 0 {
		return nil, nil
	}
	names := make([]string, len(catalogue))
	for i, t := range catalogue {
		names[i] = t.Name
	}
	// Asking for what the client may do is how to get around its cache, which may be older than the last change.
	details, err := adm.ListTopics(kadm.WithAuthorizedOps(ctx), names...)
	if err != nil {
		return nil, fmt.Errorf("listing topics: %w", err)
	}
	var present []string
	for _, t := range catalogue {
		d, ok := details[t.Name]
		switch {
		case !ok, errors.Is(d.Err, kerr.UnknownTopicOrPartition):
		case d.Err != nil:
			return nil, fmt.Errorf("listing topic %s: %w", t.Name, d.Err)
		default:
			present = append(present, t.Name)
		}
	}
	configs := map[string]map[string]string{}
	if len(present) > 0 {
		described, err := adm.DescribeTopicConfigs(ctx, present...)
		if err != nil {
			return nil, fmt.Errorf("reading the configuration of topics: %w", err)
		}
		for _, d := range described {
			if d.Err != nil {
				return nil, fmt.Errorf("reading the configuration of topic %s: %w", d.Name, d.Err)
			}
			c := map[string]string{}
			for _, kv := range d.Configs {
				c[kv.Key] = kv.MaybeValue()
			}
			configs[d.Name] = c
		}
	}
	var all []*Mismatch
	for _, t := range catalogue {
		if !slices.Contains(present, t.Name) {
			all = append(all, &Mismatch{Topic: t.Name, What: missing, Want: fmt.Sprint(t.Partitions),
				Next: "run: databus topics apply"})
			continue
		}
		all = append(all, compare(t, int32(len(details[t.Name].Partitions)), configs[t.Name])...)
	}
	return all, nil
}

// compare is the pure part. A key that the cluster does not report is one that it does not know.
func compare(t schemas.Topic, n int32, is map[string]string) []*Mismatch {
	var all []*Mismatch
	if n != t.Partitions {
		all = append(all, &Mismatch{Topic: t.Name, What: partitions, Is: fmt.Sprint(n), Want: fmt.Sprint(t.Partitions),
			Next: "the number of partitions never changes, because keys would move: if the topic is new and empty, delete it and run: databus topics apply"})
	}
	wanted := want(t)
	for _, key := range slices.Sorted(maps.Keys(wanted)) {
		value, known := is[key]
		if !known || value == wanted[key] {
			continue
		}
		next := "run: databus topics apply"
		if key == cleanupPolicy {
			next = "the policy decides what is deleted, so it is not changed for you: alter the topic after checking what it holds"
		}
		all = append(all, &Mismatch{Topic: t.Name, What: key, Is: value, Want: wanted[key], Next: next})
	}
	return all
}
