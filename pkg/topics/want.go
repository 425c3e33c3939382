package topics

import (
	"strconv"
	"time"

	"databus/schemas"
)

// Configuration keys of Kafka's topics.
const (
	cleanupPolicy    = "cleanup.policy"
	retentionMS      = "retention.ms"
	timestampType    = "message.timestamp.type"
	minCompactionLag = "min.compaction.lag.ms"
	maxCompactionLag = "max.compaction.lag.ms"
)

// want is the configuration that the catalogue asks for. Every key is set, so that a cluster's defaults do not matter.
func want(t schemas.Topic) map[string]string {
	c := map[string]string{cleanupPolicy: string(t.Cleanup), timestampType: "CreateTime"}
	if t.AppendTime {
		c[timestampType] = "LogAppendTime"
	}
	if t.Cleanup == schemas.Delete {
		c[retentionMS] = ms(t.Retention)
	}
	if t.MinCompactionLag > 0 {
		c[minCompactionLag] = ms(t.MinCompactionLag)
	}
	if t.MaxCompactionLag > 0 {
		c[maxCompactionLag] = ms(t.MaxCompactionLag)
	}
	return c
}

func ms(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }
