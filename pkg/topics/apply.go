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
// cleanup policy) comes back as an error of joined *[Mismatch], after everything else was done.
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
	return changes, errors.Join(errs...)
}

func create(ctx context.Context, adm *kadm.Client, t schemas.Topic, o Options) (string, error) {
	factor := o.ReplicationFactor
	if factor == 0 {
		factor = -1
	}
	what := fmt.Sprintf("created with %d partitions, %s", t.Partitions, t.Cleanup)
	config := want(t)
	err := tryCreate(ctx, adm, t, factor, config)
	if _, has := config[minCompactionLag]; has && errors.Is(err, kerr.InvalidConfig) {
		// The in-process broker compacts on request only and does not know the key.
		delete(config, minCompactionLag)
		what += ", without " + minCompactionLag + ", which the broker does not know"
		err = tryCreate(ctx, adm, t, factor, config)
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
