package history

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/follow"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

// Manifest follows archive.files and keeps what it says of one topic.
type Manifest struct {
	topic    string
	follower *follow.Follower

	mu    sync.RWMutex
	files map[string]event.ArchiveFile // by the event's key
}

// Follow starts to follow the manifest of a topic, or of all topics if it is ""; see Ready and CaughtUp.
func Follow(ctx context.Context, kafka []kgo.Opt, c *codec.Codec, topic string, log *slog.Logger) (*Manifest, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	m := &Manifest{topic: topic, files: map[string]event.ArchiveFile{}}
	serde := codec.For[event.ArchiveFile](c, schemas.ArchiveFiles)
	var err error
	m.follower, err = follow.Topic(ctx, kafka, schemas.ArchiveFiles, func(rec *kgo.Record) {
		if rec.Value == nil {
			m.put(string(rec.Key), nil)
			return
		}
		for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
			var file event.ArchiveFile
			err := serde.Decode(ctx, rec.Value, &file)
			if err == nil {
				m.put(string(rec.Key), &file)
				return
			}
			// A file that is left out is a gap, which every reader refuses.
			log.Error("manifest event is not readable", "partition", rec.Partition, "offset", rec.Offset, "retry", !codec.IsPoison(err), "error", err)
			if codec.IsPoison(err) {
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
		}
	})
	if err != nil {
		return nil, err
	}
	return m, nil
}

func (m *Manifest) put(key string, file *event.ArchiveFile) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if file == nil {
		delete(m.files, key)
	} else if m.topic == "" || file.Topic == m.topic {
		m.files[key] = *file
	}
}

// Ready waits until everything is known that was there at the start.
func (m *Manifest) Ready(ctx context.Context) error { return m.follower.Ready(ctx) }

// IsReady is Ready without waiting.
func (m *Manifest) IsReady() bool { return m.follower.IsReady() }

// CaughtUp waits until everything is known that is there now.
func (m *Manifest) CaughtUp(ctx context.Context) error { return m.follower.CaughtUp(ctx) }

// Close stops following.
func (m *Manifest) Close() { m.follower.Close() }

// Files returns all files, in order of topic, partition and first offset.
func (m *Manifest) Files() []event.ArchiveFile {
	m.mu.RLock()
	files := slices.Collect(maps.Values(m.files))
	m.mu.RUnlock()
	slices.SortFunc(files, func(a, b event.ArchiveFile) int {
		return cmp.Or(strings.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.First, b.First), strings.Compare(a.Object, b.Object))
	})
	return files
}

// Chain returns the files of a partition from the file that holds offset from to the end of the archive. It is empty
// when the archive of the partition ends at or before from. A *Gap: there are files behind offsets that are in none.
func (m *Manifest) Chain(partition int32, from int64) (Chain, error) {
	c := Chain{Topic: m.topic, Partition: partition, From: from, Next: from}
	m.mu.RLock()
	for _, f := range m.files {
		if f.Partition == partition && f.Next > from {
			c.Files = append(c.Files, f)
		}
	}
	m.mu.RUnlock()
	slices.SortFunc(c.Files, func(a, b event.ArchiveFile) int { return cmp.Compare(a.First, b.First) })
	for i, f := range c.Files {
		switch {
		case f.First > c.Next:
			return Chain{}, &Gap{Topic: m.topic, Partition: partition, From: c.Next, To: f.First}
		case f.First < c.Next && i > 0:
			return Chain{}, fmt.Errorf("archive of %s, partition %d: objects %s and %s overlap", m.topic, partition, c.Files[i-1].Object, f.Object)
		}
		c.Next = f.Next
	}
	return c, nil
}

// Gap is a range of offsets that no file of the archive holds.
type Gap struct {
	Topic     string
	Partition int32
	// From is the first missing offset, To the first that is there again.
	From, To int64
}

func (g *Gap) Error() string {
	return fmt.Sprintf("archive of %s, partition %d: offsets %d to %d are in no file; let the archiver write them, or restore their events in %s",
		g.Topic, g.Partition, g.From, g.To-1, schemas.ArchiveFiles)
}

// Chain is an unbroken row of files of one partition.
type Chain struct {
	Topic     string
	Partition int32
	// Offsets From to Next-1 are covered.
	From, Next int64
	Files      []event.ArchiveFile
}

// Until cuts the chain before offset next, which it must cover.
func (c Chain) Until(next int64) (Chain, error) {
	if next < c.From || next > c.Next {
		return Chain{}, fmt.Errorf("archive of %s, partition %d: it covers offsets %d to %d, and %d is asked for", c.Topic, c.Partition, c.From, c.Next-1, next-1)
	}
	c.Next = next
	c.Files = slices.DeleteFunc(slices.Clone(c.Files), func(f event.ArchiveFile) bool { return f.First >= next })
	return c, nil
}
