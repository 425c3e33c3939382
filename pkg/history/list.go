package history

import (
	"cmp"
	"context"
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
