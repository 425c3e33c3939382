package embedded

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// appendTime gives the records of topics with message.timestamp.type=LogAppendTime the broker's time. The broker
// accepts that setting but keeps the producer's times.
//
// It rewrites the batches before the broker sees them: every record's time becomes the same, now. The attribute that
// marks a batch as LogAppendTime stays clear, because the broker would then write the time a second time without
// correcting the batch's checksum; so a reader sees the right time with the type CreateTime.
type appendTime struct {
	cluster *kfake.Cluster
	topics  map[any]bool // by name (string) or id ([16]byte), until settings change
	dec     kgo.Decompressor
	enc     map[kgo.CompressionCodecType]kgo.Compressor
}

func newAppendTime(c *kfake.Cluster) *appendTime {
	a := &appendTime{cluster: c, topics: make(map[any]bool), dec: kgo.DefaultDecompressor()}
	a.enc = make(map[kgo.CompressionCodecType]kgo.Compressor)
	for typ, codec := range map[kgo.CompressionCodecType]kgo.CompressionCodec{
		kgo.CodecGzip:   kgo.GzipCompression(),
		kgo.CodecSnappy: kgo.SnappyCompression(),
		kgo.CodecLz4:    kgo.Lz4Compression(),
		kgo.CodecZstd:   kgo.ZstdCompression(),
	} {
		if enc, err := kgo.DefaultCompressor(codec); err == nil {
			a.enc[typ] = enc
		}
	}
	return a
}

// stampAppendTime installs it. All of it runs on the broker's one goroutine, or while that waits for it.
func stampAppendTime(c *kfake.Cluster) {
	a := newAppendTime(c)
	forget := func(kmsg.Request) (kmsg.Response, error, bool) {
		clear(a.topics)
		return nil, nil, false
	}
	for _, key := range []kmsg.Key{kmsg.CreateTopics, kmsg.DeleteTopics, kmsg.AlterConfigs, kmsg.IncrementalAlterConfigs} {
		c.ControlKey(int16(key), forget)
	}
	c.ControlKey(int16(kmsg.Produce), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		req := kreq.(*kmsg.ProduceRequest)
		for i := range req.Topics {
			t := &req.Topics[i]
			if !a.wanted(t) {
				continue
			}
			for j := range t.Partitions {
				p := &t.Partitions[j]
				p.Records = a.stamp(p.Records, time.Now())
			}
		}
		return nil, nil, false
	})
}

func (a *appendTime) wanted(t *kmsg.ProduceRequestTopic) bool {
	var key any = t.Topic
	if t.Topic == "" {
		key = t.TopicID
	}
	wanted, known := a.topics[key]
	if known {
		return wanted
	}
	info := a.cluster.TopicInfo(t.Topic)
	if t.Topic == "" {
		info = a.cluster.TopicIDInfo(t.TopicID)
	}
	if info == nil {
		return false // the broker refuses it; not remembered, as it may be created
	}
	v := info.Configs["message.timestamp.type"]
	wanted = v != nil && *v == "LogAppendTime"
	a.topics[key] = wanted
	return wanted
}

// stamp returns the batch with every record's time set to now. A batch that is not a whole and sound one is returned
// as it is, for the broker to refuse.
func (a *appendTime) stamp(batch []byte, now time.Time) []byte {
	if len(batch) < batchHeader || int64(binary.BigEndian.Uint32(batch[atLength:])) != int64(len(batch)-12) ||
		crc32.Checksum(batch[atAttributes:], castagnoli) != binary.BigEndian.Uint32(batch[atCRC:]) {
		return batch
	}
	codec := kgo.CompressionCodecType(batch[atAttributes+1] & attrCodec)
	records, err := a.dec.Decompress(batch[batchHeader:], codec)
	if err != nil {
		return batch
	}
	level, changed, ok := withoutDeltas(records)
	if !ok {
		return batch
	}
	out := bytes.Clone(batch)
	if changed {
		if codec != kgo.CodecNone {
			enc, ok := a.enc[codec]
			if !ok {
				return batch
			}
			level, codec = enc.Compress(new(bytes.Buffer), level)
			out[atAttributes+1] = out[atAttributes+1]&^attrCodec | byte(codec)
		}
		out = append(out[:batchHeader], level...)
		binary.BigEndian.PutUint32(out[atLength:], uint32(len(out)-12))
	}
	out[atAttributes+1] &^= attrAppendTime
	binary.BigEndian.PutUint64(out[atFirstTime:], uint64(now.UnixMilli()))
	binary.BigEndian.PutUint64(out[atMaxTime:], uint64(now.UnixMilli()))
	binary.BigEndian.PutUint32(out[atCRC:], crc32.Checksum(out[atAttributes:], castagnoli))
	return out
}

// withoutDeltas returns the records with every timestamp delta set to zero, and whether that changed any.
func withoutDeltas(records []byte) (out []byte, changed, ok bool) {
	out = make([]byte, 0, len(records))
	for len(records) > 0 {
		size, n := binary.Varint(records)
		if n <= 0 || size < 2 || size > int64(len(records)-n) {
			return nil, false, false
		}
		body := records[n : n+int(size)]
		records = records[n+int(size):]
		delta, m := binary.Varint(body[1:])
		if m <= 0 {
			return nil, false, false
		}
		changed = changed || delta != 0
		rest := body[1+m:]
		out = binary.AppendVarint(out, int64(len(rest)+2))
		out = append(out, body[0], 0)
		out = append(out, rest...)
	}
	return out, changed, true
}
