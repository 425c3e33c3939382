package service

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// Progress watches a consumer's partitions. It is ready when the consumer has been given its assignment (which may be
// empty), every assigned partition is restored, and none is stuck: stuck is a partition with lag above zero whose
// position has not moved for the set time.
//
// The position is the next offset to process; where the input is written by transactions it must count control records
// (kgo.KeepControlRecords), because the high watermark does, and a partition would never be seen at its end.
type Progress struct {
	stuckAfter time.Duration
	now        func() time.Time

	mu         sync.Mutex
	joined     bool
	partitions map[topicPartition]*partitionProgress
}

type topicPartition struct {
	topic     string
	partition int32
}

type partitionProgress struct {
	restored      bool
	position, end int64
	since         time.Time // when the position last moved, or lag last began
}

// NewProgress returns a watch with its own clock; now nil means time.Now.
func NewProgress(stuckAfter time.Duration, now func() time.Time) *Progress {
	if now == nil {
		now = time.Now
	}
	return &Progress{stuckAfter: stuckAfter, now: now, partitions: map[topicPartition]*partitionProgress{}}
}

// Assigned says that partitions of a topic are now this consumer's, not yet restored. Without partitions it says that
// the consumer is a member of its group and has got none of the topic.
func (p *Progress) Assigned(topic string, partitions ...int32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.joined = true
	for _, n := range partitions {
		p.partitions[topicPartition{topic, n}] = &partitionProgress{position: -1, since: p.now()}
	}
}

// Revoked says that partitions of a topic are no longer this consumer's.
func (p *Progress) Revoked(topic string, partitions ...int32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, n := range partitions {
		delete(p.partitions, topicPartition{topic, n})
	}
}

// Restored says that the state of assigned partitions is complete; stateless consumers call it with the assignment.
func (p *Progress) Restored(topic string, partitions ...int32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, n := range partitions {
		if s := p.partitions[topicPartition{topic, n}]; s != nil {
			s.restored, s.since = true, p.now()
		}
	}
}

// Observe reports where an assigned partition stands: the next offset to process (or the committed one) and the
// partition's end, as of the last fetch. Partitions that are not assigned are ignored.
func (p *Progress) Observe(topic string, partition int32, position, end int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.partitions[topicPartition{topic, partition}]
	if s == nil {
		return
	}
	// Time runs only while there is lag: a partition that was idle for an hour is not stuck when a record arrives.
	if hadLag := s.end > s.position; position != s.position || !hadLag {
		s.since = p.now()
	}
	s.position, s.end = position, end
}

// Lag is the sum of the assigned partitions' lags, in offsets.
func (p *Progress) Lag() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	var lag int64
	for _, s := range p.partitions {
		if s.position >= 0 {
			lag += max(0, s.end-s.position)
		}
	}
	return lag
}

// Ready reports whether the consumer is ready and, when it is not, why.
func (p *Progress) Ready() (bool, string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.joined {
		return false, "no partitions assigned yet"
	}
	var stuck, restoring []string
	now := p.now()
	for tp, s := range p.partitions {
		name := fmt.Sprintf("%s/%d", tp.topic, tp.partition)
		switch idle := now.Sub(s.since); {
		case !s.restored:
			restoring = append(restoring, name)
		case s.end > s.position && s.position >= 0 && idle >= p.stuckAfter:
			stuck = append(stuck, fmt.Sprintf("%s at offset %d of %d for %v", name, s.position, s.end, idle.Truncate(time.Second)))
		}
	}
	switch {
	case len(stuck) > 0:
		return false, "stuck: " + several(stuck)
	case len(restoring) > 0:
		return false, "restoring: " + several(restoring)
	}
	return true, ""
}

// several joins a list, the first few of a long one.
func several(list []string) string {
	slices.Sort(list)
	if len(list) > 4 {
		return strings.Join(list[:4], ", ") + fmt.Sprintf(" and %d more", len(list)-4)
	}
	return strings.Join(list, ", ")
}
