package archiver

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/schemas"
)

// topicsEvery is how often topics are looked for that match a pattern, and how often their retention is read.
const topicsEvery = 30 * time.Second

// resolve lists the topics to archive, as the brokers know them, and their retention. Of the named ones each must fit; of
// those that a pattern matches, the fitting ones are taken and the others are named in left.
func (a *Archiver) resolve(ctx context.Context, admin *kadm.Client) (topics []string, retention map[string]time.Duration, left []string, err error) {
	details, err := admin.ListTopics(ctx)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("listing topics: %w", err)
	}
	var present []string
	for _, name := range details.Names() {
		if slices.Contains(a.cfg.Topics, name) || a.cfg.matches(name) {
			present = append(present, name)
		}
	}
	retention = map[string]time.Duration{}
	topics = slices.Clone(a.cfg.Topics) // one that is missing is waited for
	if len(present) == 0 {
		return topics, retention, nil, nil
	}
	configs, err := admin.DescribeTopicConfigs(ctx, present...)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("asking for the topics' configurations: %w", err)
	}
	for _, name := range present {
		config, err := configs.On(name, nil)
		if err == nil {
			err = config.Err
		}
		if err != nil {
			return nil, nil, nil, fmt.Errorf("asking for the configuration of %s: %w", name, err)
		}
		values := map[string]string{}
		for _, c := range config.Configs {
			values[c.Key] = c.MaybeValue()
		}
		why := ""
		switch {
		case strings.Contains(values["cleanup.policy"], "compact"):
			why = fmt.Sprintf("topic %s is compacted: only topics with cleanup.policy=delete keep what an archive needs", name)
		case !details.Has(deadLetterTopic(name)):
			why = fmt.Sprintf("topic %s has no %s beside it for records that cannot be decoded: create it", name, deadLetterTopic(name))
		}
		named := slices.Contains(a.cfg.Topics, name)
		switch {
		case why != "" && named:
			return nil, nil, nil, &fatal{fmt.Errorf("choosing topics: %s", why)}
		case why != "":
			left = append(left, why)
			continue
		case !named:
			topics = append(topics, name)
		}
		if ms, err := strconv.ParseInt(values["retention.ms"], 10, 64); err == nil && ms > 0 && ms < 1<<43 {
			retention[name] = time.Duration(ms) * time.Millisecond
		}
	}
	slices.Sort(topics)
	return topics, retention, left, nil
}

const deadLetterSuffix = ".dlq"

func deadLetterTopic(topic string) string {
	if t, ok := schemas.Lookup(topic); ok {
		return t.DeadLetter()
	}
	return topic + deadLetterSuffix
}

// chooseTopics resolves until there is something to archive.
func (a *Archiver) chooseTopics(ctx context.Context) error {
	client, err := kgo.NewClient(a.Client...)
	if err != nil {
		return fmt.Errorf("opening the Kafka client: %w", err)
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	for pause := 200 * time.Millisecond; ; pause = min(2*pause, a.cfg.RetryMax) {
		topics, retention, left, err := a.resolve(ctx, admin)
		if _, final := err.(*fatal); final {
			return err
		}
		if err == nil && len(topics) > 0 {
			a.noteTopics(topics, retention, left)
			return nil
		}
		a.Log.Warn("waiting for topics to archive", "patterns", a.cfg.Patterns, "error", err, "left_out", left)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

func (a *Archiver) noteTopics(topics []string, retention map[string]time.Duration, left []string) (added []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, t := range topics {
		if !slices.Contains(a.topics, t) {
			added = append(added, t)
		}
	}
	a.topics = append(a.topics, added...) // one that disappears stays: its records may not be archived yet
	a.retention = retention
	for _, why := range left {
		if !a.leftOut[why] {
			a.leftOut[why] = true
			a.Log.Warn("a topic that a pattern matches is not archived", "reason", why)
		}
	}
	return added
}

// watchTopics looks for new topics and for changes of retention until ctx is done.
func (a *Archiver) watchTopics(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(a.topicsEvery):
		}
		topics, retention, left, err := a.resolve(ctx, a.admin)
		if err != nil {
			if ctx.Err() == nil {
				a.Log.Warn("looking for topics", "error", err)
			}
			continue
		}
		if added := a.noteTopics(topics, retention, left); len(added) > 0 {
			a.Log.Info("archiving more topics", "topics", added)
			a.client.AddConsumeTopics(added...)
		}
	}
}
