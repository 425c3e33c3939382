package history

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"databus/pkg/archive"
	"databus/pkg/blob"
)

// Object is an object of the archive as the bucket lists it.
type Object struct {
	archive.Name
	// Key is the object's in the bucket, Size in bytes.
	Key  string
	Size int64
}

// Listing is what the bucket alone says about an archive.
type Listing struct {
	// Objects in order of topic, partition and first offset.
	Objects []Object
	// Marks are those of objects that have left the manifest because of their age, by Name without an Hour.
	Marks map[archive.Name]blob.Info
	// Strays are keys below the prefix that are not named like an object. Names that begin with an underscore are not
	// among them: they are the archive's own, and engines leave them out.
	Strays []string
}

// List lists the objects below a prefix, of one topic or, with "", of all.
func List(ctx context.Context, bucket blob.Bucket, prefix, topic string) (*Listing, error) {
	l := &Listing{Marks: map[archive.Name]blob.Info{}}
	below := path.Join(prefix, topic)
	if below != "" {
		below += "/"
	}
	err := bucket.List(ctx, below, func(info blob.Info) error {
		name, ok := archive.ParseName(info.Key)
		switch {
		case ok && info.Key == keyOf(prefix, name):
			l.Objects = append(l.Objects, Object{name, info.Key, info.Size})
		case !strings.HasPrefix(path.Base(info.Key), "_"):
			l.Strays = append(l.Strays, info.Key)
		default:
			if mark, ok := archive.ParseMark(prefix, info.Key); ok {
				l.Marks[mark] = info
			}
		}
		return nil
	})
	l.sort()
	return l, err
}

// MarksOf are the marks of one partition, by the first offsets of their objects.
func (l *Listing) MarksOf(topic string, partition int32) map[int64]blob.Info {
	found := map[int64]blob.Info{}
	for mark, info := range l.Marks {
		if mark.Topic == topic && mark.Partition == partition {
			found[mark.First] = info
		}
	}
	return found
}

// LetGo reads, from the last of a partition's marks, below which offset the archive's own retention has let everything
// go; 0 without a mark. A mark that says nothing is archive.ErrFormat.
func LetGo(ctx context.Context, bucket blob.Bucket, marks map[int64]blob.Info) (int64, error) {
	if len(marks) == 0 {
		return 0, nil
	}
	key := marks[slices.Max(slices.Collect(maps.Keys(marks)))].Key
	body, _, err := bucket.Get(ctx, key)
	if err != nil {
		return 0, fmt.Errorf("reading the mark of an object that has left: %w", err)
	}
	defer body.Close()
	text, err := io.ReadAll(io.LimitReader(body, 4<<10))
	if err != nil {
		return 0, fmt.Errorf("reading the mark %s: %w", key, err)
	}
	mark, err := archive.ReadMark(string(text))
	if err != nil {
		return 0, fmt.Errorf("reading the mark %s: %w", key, err)
	}
	return mark.Next, nil
}

func keyOf(prefix string, n archive.Name) string {
	return path.Join(prefix, n.Topic, n.Hour, path.Base(archive.ObjectName("", n.Topic, n.Partition, n.First, 0)))
}

func (l *Listing) sort() {
	slices.SortFunc(l.Objects, func(a, b Object) int {
		return cmp.Or(strings.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.First, b.First), strings.Compare(a.Key, b.Key))
	})
}

// Partitions cuts the listing into the objects of each partition, in order.
func (l *Listing) Partitions() [][]Object {
	var all [][]Object
	for i, o := range l.Objects {
		if i == 0 || o.Topic != l.Objects[i-1].Topic || o.Partition != l.Objects[i-1].Partition {
			all = append(all, nil)
		}
		all[len(all)-1] = append(all[len(all)-1], o)
	}
	return all
}
