package archiver

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
)

// lag is what of a topic is not archived yet, over this instance's partitions.
type lag struct {
	records int64
	bytes   float64       // estimated from what is spooled
	age     time.Duration // of the oldest record, by its timestamp
}

// measure says how much waits, by topic.
func (a *Archiver) measure(now time.Time) map[string]lag {
	all := map[string]lag{}
	for _, p := range a.assigned() {
		l := all[p.topic]
		l.records += max(0, p.end-p.first)
		if p.spool.Records > 0 && p.position > p.first {
			l.bytes += float64(p.spool.Bytes) * float64(max(p.end, p.position)-p.first) / float64(p.position-p.first)
		}
		if p.waiting {
			l.age = max(l.age, now.Sub(time.UnixMilli(p.oldest)))
		}
		all[p.topic] = l
	}
	return all
}

// watchAge exports the lag, and raises the alarm where records wait for too much of their topic's retention.
func (a *Archiver) watchAge(ctx context.Context, now time.Time) {
	if now.Sub(a.aged) < time.Second {
		return
	}
	a.aged = now
	var reasons []string
	for topic, l := range a.measure(now) {
		a.metrics.lagRecords.WithLabelValues(topic).Set(float64(l.records))
		a.metrics.lagBytes.WithLabelValues(topic).Set(l.bytes)
		a.metrics.lagSeconds.WithLabelValues(topic).Set(l.age.Seconds())
		a.mu.Lock()
		retention := a.retention[topic]
		a.mu.Unlock()
		if retention == 0 {
			continue
		}
		used := l.age.Seconds() / retention.Seconds()
		a.metrics.retentionUsed.WithLabelValues(topic).Set(used)
		if used < a.cfg.AlarmAt {
			continue
		}
		reasons = append(reasons, fmt.Sprintf("%s: records wait for %v, and are deleted after %v", topic, l.age.Round(time.Second), retention))
		if retention < a.cfg.ExtendRetentionTo {
			a.extend(ctx, topic, retention, min(2*retention, a.cfg.ExtendRetentionTo))
		}
	}
	slices.Sort(reasons)
	text := strings.Join(reasons, "; ")
	if before := a.old.Swap(&text); text != "" && (before == nil || *before == "") {
		a.Log.Error("records age and are not archived", "reason", text)
	}
}

// extend gives a topic more time. Nobody shortens it again but an operator.
func (a *Archiver) extend(ctx context.Context, topic string, from, to time.Duration) {
	value := strconv.FormatInt(to.Milliseconds(), 10)
	answers, err := a.admin.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "retention.ms", Value: &value}}, topic)
	if err == nil {
		_, err = answers.On(topic, func(r *kadm.AlterConfigsResponse) error { return r.Err })
	}
	if err != nil {
		a.Log.Error("extending the retention", "topic", topic, "error", err)
		return
	}
	a.mu.Lock()
	a.retention[topic] = to
	a.mu.Unlock()
	a.metrics.extensions.Inc()
	a.Log.Warn("the topic's retention is extended, because its records wait to be archived", "topic", topic, "from", from, "to", to)
}
