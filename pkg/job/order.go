package job

import (
	"context"
	"sync"

	"github.com/IBM/sarama"
	"github.com/lovoo/goka"
)

// orderedGroup repairs two things in how goka uses a consumer group.
//
// goka marks an input as soon as its own emits are acknowledged, and a mark covers everything before it. If a later input
// (say, one that needs no emit) finishes first, the earlier one counts as done while its tasks or its row may still be
// lost in a crash. Here an offset is passed on only when every earlier delivered record of its partition is marked.
//
// goka also sleeps five seconds after each rebalance before it joins again, while the other members wait. Here Consume
// joins again at once and returns only with an error or at the end of ctx.
type orderedGroup struct{ sarama.ConsumerGroup }

func saramaGroup(o Options) goka.ConsumerGroupBuilder {
	return func(brokers []string, group, clientID string) (sarama.ConsumerGroup, error) {
		g, err := sarama.NewConsumerGroup(brokers, group, newSarama(o, clientID))
		if err != nil {
			return nil, err
		}
		return orderedGroup{g}, nil
	}
}

func (g orderedGroup) Consume(ctx context.Context, topics []string, handler sarama.ConsumerGroupHandler) error {
	for ctx.Err() == nil {
		if err := g.ConsumerGroup.Consume(ctx, topics, &orderedHandler{inner: handler}); err != nil {
			return err
		}
	}
	return nil
}

// orderedHandler is the handler of one session.
type orderedHandler struct {
	inner   sarama.ConsumerGroupHandler
	session *orderedSession
}

func (h *orderedHandler) Setup(s sarama.ConsumerGroupSession) error {
	h.session = &orderedSession{ConsumerGroupSession: s, claims: map[topicPartition]*marks{}}
	for topic, partitions := range s.Claims() {
		for _, p := range partitions {
			h.session.claims[topicPartition{topic, p}] = &marks{done: map[int64]bool{}}
		}
	}
	return h.inner.Setup(h.session)
}

func (h *orderedHandler) Cleanup(sarama.ConsumerGroupSession) error {
	return h.inner.Cleanup(h.session)
}

func (h *orderedHandler) ConsumeClaim(_ sarama.ConsumerGroupSession, c sarama.ConsumerGroupClaim) error {
	m := h.session.claims[topicPartition{c.Topic(), c.Partition()}]
	out := make(chan *sarama.ConsumerMessage)
	go func() {
		defer close(out)
		for msg := range c.Messages() {
			m.deliver(msg.Offset)
			select {
			case out <- msg:
			case <-h.session.Context().Done():
				return
			}
		}
	}()
	return h.inner.ConsumeClaim(h.session, orderedClaim{c, out})
}

type orderedClaim struct {
	sarama.ConsumerGroupClaim
	messages <-chan *sarama.ConsumerMessage
}

func (c orderedClaim) Messages() <-chan *sarama.ConsumerMessage { return c.messages }

type topicPartition struct {
	topic     string
	partition int32
}

type orderedSession struct {
	sarama.ConsumerGroupSession
	claims map[topicPartition]*marks // written in Setup only
}

// MarkOffset takes offset as the next one to read, as sarama does.
func (s *orderedSession) MarkOffset(topic string, partition int32, offset int64, metadata string) {
	m := s.claims[topicPartition{topic, partition}]
	if m == nil {
		return
	}
	m.mark(offset-1, func(next int64) { s.ConsumerGroupSession.MarkOffset(topic, partition, next, metadata) })
}

func (s *orderedSession) MarkMessage(msg *sarama.ConsumerMessage, metadata string) {
	s.MarkOffset(msg.Topic, msg.Partition, msg.Offset+1, metadata)
}

// marks tracks one partition: the delivered offsets, in order, of which the first is not marked yet.
type marks struct {
	mu      sync.Mutex
	pending []int64
	done    map[int64]bool
}

func (m *marks) deliver(offset int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pending = append(m.pending, offset)
}

// mark calls pass, under the lock so that calls are in order, if the marked prefix has grown.
func (m *marks) mark(offset int64, pass func(next int64)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.done[offset] = true
	next := int64(-1)
	for len(m.pending) > 0 && m.done[m.pending[0]] {
		next = m.pending[0] + 1
		delete(m.done, m.pending[0])
		m.pending = m.pending[1:]
	}
	if next >= 0 {
		pass(next)
	}
}
