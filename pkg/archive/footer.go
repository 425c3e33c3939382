package archive

import (
	"fmt"
	"strconv"
)

// The footer's keys, all values text.
const (
	keyEncoder      = "databus.archive.encoder"
	keyTopic        = "databus.archive.topic"
	keyPartition    = "databus.archive.partition"
	keyFirst        = "databus.archive.first"
	keyNext         = "databus.archive.next"
	keyRows         = "databus.archive.rows"
	keyDeadLetters  = "databus.archive.dead_letters"
	keySchema       = "databus.archive.schema"
	keySchemaID     = "databus.archive.schema_id"
	keyMinTimestamp = "databus.archive.min_timestamp"
	keyMaxTimestamp = "databus.archive.max_timestamp"
	keySortedBy     = "databus.archive.sorted_by"
)

// metadata lists the pairs in the order in which they are written.
func (f *Footer) metadata() [][2]string {
	pairs := [][2]string{
		{keyEncoder, f.EncoderVersion},
		{keyTopic, f.Topic},
		{keyPartition, strconv.FormatInt(int64(f.Partition), 10)},
		{keyFirst, strconv.FormatInt(f.First, 10)},
		{keyNext, strconv.FormatInt(f.Next, 10)},
		{keyRows, strconv.FormatInt(f.Rows, 10)},
		{keyDeadLetters, strconv.FormatInt(f.DeadLetters, 10)},
		{keySchemaID, strconv.Itoa(f.SchemaID)},
		{keySchema, f.Schema},
	}
	if f.Rows > 0 {
		pairs = append(pairs,
			[2]string{keyMinTimestamp, strconv.FormatInt(f.MinTimestamp, 10)},
			[2]string{keyMaxTimestamp, strconv.FormatInt(f.MaxTimestamp, 10)})
	}
	if f.SortedBy != "" {
		pairs = append(pairs, [2]string{keySortedBy, f.SortedBy})
	}
	return pairs
}

func parseFooter(lookup func(string) (string, bool)) (f Footer, err error) {
	text := func(key string) string {
		value, ok := lookup(key)
		if !ok && err == nil {
			err = fmt.Errorf("the footer has no %s", key)
		}
		return value
	}
	number := func(key string, bits int) int64 {
		value := text(key)
		n, parseErr := strconv.ParseInt(value, 10, bits)
		if parseErr != nil && err == nil {
			err = fmt.Errorf("the footer's %s is %q", key, value)
		}
		return n
	}
	f.EncoderVersion = text(keyEncoder)
	f.Topic = text(keyTopic)
	f.Partition = int32(number(keyPartition, 32))
	f.First = number(keyFirst, 64)
	f.Next = number(keyNext, 64)
	f.Rows = number(keyRows, 64)
	f.DeadLetters = number(keyDeadLetters, 64)
	f.Schema = text(keySchema)
	f.SchemaID = int(number(keySchemaID, 32))
	if f.Rows > 0 {
		f.MinTimestamp = number(keyMinTimestamp, 64)
		f.MaxTimestamp = number(keyMaxTimestamp, 64)
	}
	f.SortedBy, _ = lookup(keySortedBy) // others have none
	if err != nil {
		return Footer{}, err
	}
	return f, f.check()
}
