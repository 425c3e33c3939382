package topics

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"databus/schemas"
)

// Options of [Apply].
type Options struct {
	// ReplicationFactor of new topics; 0 or -1 means the cluster's default.
	ReplicationFactor int16
}

// A Change is something that Apply did.
type Change struct {
	Topic string
	// What was done, in words for an operator.
	What string
}

// Apply creates the topics that are missing and alters configuration that differs. What it must not change (partitions,
// cleanup policy) comes back as an error of joined *[Mismatch], after everything else was done. New topics are ready for use when it returns.
func Apply(ctx context.Context, adm *kadm.Client, catalogue []schemas.Topic, o Options) ([]Change, error) {
	differences, err := Compare(ctx, adm, catalogue)
	if err != nil {
		return nil, err
	}
	byName := map[string]schemas.Topic{}
	for _, t := range catalogue {
		byName[t.Name] = t
	}
	var (
		changes []Change
		errs    []error
	)
	for _, m := range differences {
		switch m.What {
		case missing:
			what, err := create(ctx, adm, byName[m.Topic], o)
			if err != nil {
				errs = append(errs, fmt.Errorf("creating topic %s: %w", m.Topic, err))
			} else if what != "" {
				changes = append(changes, Change{m.Topic, what})
			}
		case partitions, cleanupPolicy:
			errs = append(errs, m)
		default:
			if err := alter(ctx, adm, m); err != nil {
				errs = append(errs, fmt.Errorf("altering topic %s: %w", m.Topic, err))
				continue
			}
			changes = append(changes, Change{m.Topic, fmt.Sprintf("%s from %s to %s", m.What, m.Is, m.Want)})
		}
	}
	if len(changes) > 0 {
		errs = append(errs, await(ctx, adm, catalogue))
	}
	return changes, errors.Join(errs...)
}

// settle bounds how long brokers may take to know new topics.
const settle = 30 * time.Second

// await waits until every partition of the topics has a leader: a topic is created before all brokers know it, and a client
// that comes in between is told that it does not exist.
func await(ctx context.Context, adm *kadm.Client, catalogue []schemas.Topic) error {
	names := make([]string, len(catalogue))
	for i, t := range catalogue {
		names[i] = t.Name
	}
	ctx, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	for {
		without := ""
		details, err := adm.ListTopics(kadm.WithAuthorizedOps(ctx), names...)
		for _, t := range catalogue {
			d := details[t.Name]
			led := len(d.Partitions)
			for _, p := range d.Partitions {
				if p.Leader < 0 || p.Err != nil {
					led--
				}
			}
			if d.Err != nil || led == 0 || led < len(d.Partitions) {
				without = t.Name
			}
		}
		if err == nil && without == "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for topic %s to have a leader for each partition: %w", without, errors.Join(ctx.Err(), err))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func create(ctx context.Context, adm *kadm.Client, t schemas.Topic, o Options) (string, error) {
	factor := o.ReplicationFactor
	if factor == 0 {
		factor = -1
	}
	what := fmt.Sprintf("created with %d partitions, %s", t.Partitions, t.Cleanup)
	config := want(t)
	err := tryCreate(ctx, adm, t, factor, config)
	for _, key := range []string{minCompactionLag, maxCompactionLag} {
		if _, has := config[key]; has && errors.Is(err, kerr.InvalidConfig) {
			// The in-process broker compacts on request only and does not know the key.
			delete(config, key)
			what += ", without " + key + ", which the broker does not know"
			err = tryCreate(ctx, adm, t, factor, config)
		}
	}
	if errors.Is(err, kerr.TopicAlreadyExists) {
		return "", nil // somebody else was quicker, with the same catalogue
	}
	return what, err
}

func tryCreate(ctx context.Context, adm *kadm.Client, t schemas.Topic, factor int16, config map[string]string) error {
	configs := map[string]*string{}
	for _, k := range slices.Sorted(maps.Keys(config)) {
		v := config[k]
		configs[k] = &v
	}
	_, err := adm.CreateTopic(ctx, t.Partitions, factor, configs, t.Name)
	return err
}

func alter(ctx context.Context, adm *kadm.Client, m *Mismatch) error {
	answers, err := adm.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: kadm.SetConfig, Name: m.What, Value: &m.Want}}, m.Topic)
	if err != nil {
		return err
	}
	for _, a := range answers {
		if a.Err != nil {
			return fmt.Errorf("%s: %w", m.What, a.Err)
		}
	}
	return nil
}
