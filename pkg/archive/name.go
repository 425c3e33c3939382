package archive

import (
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"
)

// ObjectName gives the key of an object in the bucket: dt and hr are those of the first record's timestamp (milliseconds
// since 1970), UTC. prefix may be empty.
func ObjectName(prefix, topic string, partition int32, first, timestamp int64) string {
	return path.Join(prefix, topic, HourOf(timestamp), fmt.Sprintf("%s+%d+%020d.parquet", topic, partition, first))
}

// HourOf gives the part of an object's name that its hour decides, dt=YYYY-MM-DD/hr=HH, from a timestamp in
// milliseconds since 1970. Timestamps outside the years 0 to 9999 count as the nearest hour inside.
func HourOf(timestamp int64) string {
	const least, greatest = -62167219200000, 253402300799999
	t := time.UnixMilli(max(least, min(greatest, timestamp))).UTC()
	return t.Format("dt=2006-01-02/hr=15")
}

// Name is what an object's key says.
type Name struct {
	Topic     string
	Partition int32
	First     int64
	// Hour is dt=YYYY-MM-DD/hr=HH.
	Hour string
}

// ParseName reads an object's key, with whatever prefix; ok is false for keys that are not named like an object.
func ParseName(key string) (n Name, ok bool) {
	parts := strings.Split(key, "/")
	if len(parts) < 4 {
		return Name{}, false
	}
	parts = parts[len(parts)-4:]
	base, ok := strings.CutSuffix(parts[3], ".parquet")
	if !ok {
		return Name{}, false
	}
	fields := strings.Split(base, "+")
	if len(fields) != 3 || fields[0] != parts[0] || CheckTopic(fields[0]) != nil || len(fields[2]) != 20 {
		return Name{}, false
	}
	n = Name{Topic: fields[0], Hour: parts[1] + "/" + parts[2]}
	if _, err := time.Parse("dt=2006-01-02/hr=15", n.Hour); err != nil {
		return Name{}, false
	}
	partition, err := strconv.ParseInt(fields[1], 10, 32)
	if err != nil {
		return Name{}, false
	}
	n.Partition = int32(partition)
	if n.First, err = strconv.ParseInt(fields[2], 10, 64); err != nil {
		return Name{}, false
	}
	// Only the canonical form counts, or one range could have two names.
	if n.First < 0 || n.Partition < 0 || base != fmt.Sprintf("%s+%d+%020d", n.Topic, n.Partition, n.First) {
		return Name{}, false
	}
	return n, true
}

// MarkName gives the key of the mark of an object that has left the manifest. Engines leave out what begins with an
// underscore.
func MarkName(prefix, topic string, partition int32, first int64) string {
	return path.Join(prefix, topic, fmt.Sprintf("_left+%d+%020d", partition, first))
}

// ParseMark reads the key of a mark below a prefix; ok is false for any other key. A mark's Hour is empty.
func ParseMark(prefix, key string) (n Name, ok bool) {
	n.Topic = path.Base(path.Dir(key))
	fields := strings.Split(path.Base(key), "+")
	if len(fields) != 3 {
		return Name{}, false
	}
	partition, err := strconv.ParseInt(fields[1], 10, 32)
	n.Partition = int32(partition)
	if err == nil {
		n.First, err = strconv.ParseInt(fields[2], 10, 64)
	}
	return n, err == nil && n.First >= 0 && n.Partition >= 0 && key == MarkName(prefix, n.Topic, n.Partition, n.First)
}

// Mark is the content of a mark: the object, and where its range ends.
type Mark struct {
	Object string
	Next   int64
}

// String is the mark's text.
func (m Mark) String() string { return fmt.Sprintf("%s\n%d\n", m.Object, m.Next) }

// ReadMark reads a mark's text.
func ReadMark(text string) (m Mark, err error) {
	object, next, ok := strings.Cut(strings.TrimSuffix(text, "\n"), "\n")
	if m.Object = object; ok {
		m.Next, err = strconv.ParseInt(next, 10, 64)
	}
	if !ok || err != nil || m.Next <= 0 {
		return Mark{}, fmt.Errorf("%w: the mark %q does not name an object and where its range ends", ErrFormat, text)
	}
	return m, nil
}

// CheckTopic refuses what Kafka refuses as a topic's name.
func CheckTopic(topic string) error {
	if topic == "" || topic == "." || topic == ".." || len(topic) > 249 {
		return fmt.Errorf("%q is no topic's name", topic)
	}
	for _, r := range topic {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '.' && r != '_' && r != '-' {
			return fmt.Errorf("%q is no topic's name", topic)
		}
	}
	return nil
}
