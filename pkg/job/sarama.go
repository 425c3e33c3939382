package job

import (
	"hash"
	"time"

	"github.com/IBM/sarama"
	"github.com/lovoo/goka"
)

// newSarama returns the client configuration of coordinators and views. goka's own defaults do not serve:
//   - its protocol version 2.0 is refused by brokers from 4.0 on;
//   - inputs would start at the newest offset, so that a request made before the first start would be lost;
//   - acks from the leader alone, and several requests in flight without idempotence, could lose or reorder rows of
//     the table.
//
// A new value is made for each client, since goka's builders write into it.
func newSarama(o Options, clientID string) *sarama.Config {
	c := sarama.NewConfig()
	c.Version = sarama.V3_6_0_0
	c.ClientID = clientID
	c.Metadata.AllowAutoTopicCreation = false
	c.Metadata.Retry.Backoff = 200 * time.Millisecond

	c.Consumer.IsolationLevel = sarama.ReadCommitted
	c.Consumer.Return.Errors = true
	c.Consumer.MaxProcessingTime = time.Second
	c.Consumer.MaxWaitTime = 250 * time.Millisecond
	c.Consumer.Offsets.Initial = sarama.OffsetOldest
	c.Consumer.Offsets.AutoCommit.Interval = 500 * time.Millisecond
	c.Consumer.Group.ResetInvalidOffsets = false // a gap must be seen, not skipped
	c.Consumer.Group.Rebalance.GroupStrategies = []sarama.BalanceStrategy{goka.StrictCopartitioningStrategy}
	c.Consumer.Group.InstanceId = o.InstanceID
	c.Consumer.Group.Session.Timeout = o.SessionTimeout
	c.Consumer.Group.Heartbeat.Interval = min(3*time.Second, o.SessionTimeout/5)

	c.Producer.RequiredAcks = sarama.WaitForAll
	c.Producer.Idempotent = true
	c.Net.MaxOpenRequests = 1 // what idempotence needs in sarama
	c.Producer.Retry.Max = 30
	c.Producer.Retry.Backoff = 200 * time.Millisecond
	c.Producer.Compression = sarama.CompressionLZ4
	c.Producer.Return.Successes = true
	c.Producer.Return.Errors = true
	_ = o.secure(c) // withDefaults has checked it
	if o.Sarama != nil {
		o.Sarama(c)
	}
	return c
}

// murmur2 is the partitioner of the Java client and of franz-go as a hash, masked to 31 bits so that goka's
// "absolute value, modulo partitions" gives the same partition. goka's default (FNV) would look for a row in another
// partition than the one its request came in.
type murmur2 struct{ data []byte }

func newMurmur2() hash.Hash32 { return new(murmur2) }

func (h *murmur2) Write(p []byte) (int, error) { h.data = append(h.data, p...); return len(p), nil }
func (h *murmur2) Sum(b []byte) []byte {
	v := h.Sum32()
	return append(b, byte(v>>24), byte(v>>16), byte(v>>8), byte(v))
}
func (h *murmur2) Reset()         { h.data = h.data[:0] }
func (h *murmur2) Size() int      { return 4 }
func (h *murmur2) BlockSize() int { return 4 }

func (h *murmur2) Sum32() uint32 {
	const m = 0x5bd1e995
	b := h.data
	v := uint32(0x9747b28c) ^ uint32(len(b))
	for ; len(b) >= 4; b = b[4:] {
		k := uint32(b[3])<<24 | uint32(b[2])<<16 | uint32(b[1])<<8 | uint32(b[0])
		k *= m
		k ^= k >> 24
		k *= m
		v = v*m ^ k
	}
	switch len(b) {
	case 3:
		v ^= uint32(b[2]) << 16
		fallthrough
	case 2:
		v ^= uint32(b[1]) << 8
		fallthrough
	case 1:
		v = (v ^ uint32(b[0])) * m
	}
	v ^= v >> 13
	v *= m
	v ^= v >> 15
	return v & 0x7fffffff
}

// partitionOf is the partition of a key among n.
func partitionOf(key string, n int) int32 {
	h := murmur2{data: []byte(key)}
	return int32(h.Sum32() % uint32(n))
}

func topicManager(o Options, clientID string) goka.TopicManagerBuilder {
	return func(brokers []string) (goka.TopicManager, error) {
		tm := goka.NewTopicManagerConfig()
		tm.NoCreate = true // topics come from the catalogue
		return goka.NewTopicManager(brokers, newSarama(o, clientID), tm)
	}
}

func saramaConsumer(o Options) goka.SaramaConsumerBuilder {
	return func(brokers []string, clientID string) (sarama.Consumer, error) {
		return sarama.NewConsumer(brokers, newSarama(o, clientID))
	}
}

func saramaProducer(o Options) goka.ProducerBuilder {
	return func(brokers []string, clientID string, hasher func() hash.Hash32) (goka.Producer, error) {
		c := newSarama(o, clientID)
		c.Producer.Partitioner = sarama.NewCustomHashPartitioner(hasher)
		return goka.NewProducer(brokers, c)
	}
}
