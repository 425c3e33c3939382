package history

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"databus/pkg/archive"
	"databus/pkg/blob"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

// Verifier proves what an archive promises. The zero values of what is not needed leave a proof out.
type Verifier struct {
	Bucket blob.Bucket
	// Prefix is the archiver's.
	Prefix string
	// Topic is the one to verify; "" means all that have objects or events in the manifest.
	Topic string
	// Kafka are the options of clients; nil means that only the bucket is looked at, without manifest and counts.
	Kafka []kgo.Opt
	Codec *codec.Codec
	// Group is the archiver's: what it has committed must be in objects. "" leaves that out.
	Group string
	// Deep reads every row.
	Deep bool
	// Patience is how long an object may lack its event in the manifest, and how long nothing may come from the topic.
	Patience time.Duration
	// Workers are partitions that are verified at the same time; each holds one object in a temporary file.
	Workers int
}

// Problem is a promise that does not hold.
type Problem struct {
	Topic string
	// Partition and Offset are -1 where the problem has none.
	Partition int32
	Offset    int64
	// Object is a key of the bucket, or empty.
	Object string
	// What is wrong, and what an operator does Next.
	What, Next string
}

func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.Topic)
	if p.Partition >= 0 {
		fmt.Fprintf(&b, "/%d", p.Partition)
	}
	if p.Offset >= 0 {
		fmt.Fprintf(&b, "@%d", p.Offset)
	}
	if p.Object != "" {
		fmt.Fprintf(&b, " (%s)", p.Object)
	}
	fmt.Fprintf(&b, ": %s; %s", p.What, p.Next)
	return b.String()
}

// Verified is what was found of one partition, or, with Partition -1, of a topic or of the prefix.
type Verified struct {
	Topic     string
	Partition int32
	Files     int
	// First and Next bound the offsets of all files.
	First, Next int64
	// Left is where the archive's own retention ends: everything below it has left the manifest, and a day later the bucket,
	// because of its age. 0: nothing has. Leaving are the files below it that are still in the bucket; they are verified like
	// any other.
	Left                    int64
	Leaving                 int
	Rows, DeadLetters, Size int64
	// Counted are files whose records were compared with the topic, which no longer has those of the others.
	Counted int
	// Behind are offsets at the topic's end that no file covers yet; -1 when the topic was not asked.
	Behind   int64
	Problems []Problem
}

// part is the work on one partition.
type part struct {
	v      *Verifier
	out    *Verified
	files  []*file
	events []event.ArchiveFile // of the manifest
	// committed is the archiver's offset before the bucket was listed; -1 when it has none.
	committed int64
	// marks are of the objects that the archive's retention has let go, by their first offsets.
	marks map[int64]blob.Info
}

// file is an object of the partition and what is known of it.
type file struct {
	object Object
	event  *event.ArchiveFile // nil: the manifest has none
	footer *archive.Footer    // nil: it could not be read
}

// next is where the object's range ends, as far as anybody says.
func (f *file) next() (int64, bool) {
	switch {
	case f.footer != nil:
		return f.footer.Next, true
	case f.event != nil:
		return f.event.Next, true
	}
	return 0, false
}

// Run verifies and calls each for every partition, in order of topics and partitions. The archiver may be at work meanwhile.
// An error is one of reading; what is wrong with the archive are problems.
func (v *Verifier) Run(ctx context.Context, each func(*Verified) error) error {
	// What the archiver has committed is in the bucket. Then the bucket: what is put later may be in the manifest already,
	// and is looked up by its key.
	committed, err := v.committed(ctx)
	if err != nil {
		return err
	}
	listing, err := List(ctx, v.Bucket, v.Prefix, v.Topic)
	if err != nil {
		return fmt.Errorf("listing the archive: %w", err)
	}
	parts := map[place]*part{}
	get := func(topic string, partition int32) *part {
		at := place{topic, partition}
		if parts[at] == nil {
			parts[at] = &part{v: v, out: &Verified{Topic: topic, Partition: partition, Behind: -1}, committed: -1, marks: map[int64]blob.Info{}}
		}
		return parts[at]
	}
	for _, key := range listing.Strays {
		topic, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(key, v.Prefix), "/"), "/")
		p := get(topic, -1)
		p.problem(-1, key, "it is not named like an object of the archive, so no reader finds its rows or all read them twice",
			"give it back its name <topic>/dt=<day>/hr=<hour>/<topic>+<partition>+<first>.parquet, or move it away")
	}
	for _, o := range listing.Objects {
		p := get(o.Topic, o.Partition)
		p.files = append(p.files, &file{object: o})
	}
	for mark, info := range listing.Marks {
		get(mark.Topic, mark.Partition).marks[mark.First] = info
	}
	if v.Kafka != nil {
		m, err := Follow(ctx, v.Kafka, v.Codec, v.Topic, nil)
		if err != nil {
			return err
		}
		defer m.Close()
		if err := v.compare(ctx, m, parts, get); err != nil {
			return err
		}
	}
	for at, offset := range committed {
		get(at.topic, at.partition).committed = offset
	}
	return v.all(ctx, parts, each)
}

type place struct {
	topic     string
	partition int32
}

// compare gives each object its event, and names the objects and events that have no counterpart.
func (v *Verifier) compare(ctx context.Context, m *Manifest, parts map[place]*part, get func(string, int32) *part) error {
	wait, cancel := context.WithTimeout(ctx, v.Patience)
	defer cancel()
	for {
		if err := m.CaughtUp(ctx); err != nil {
			return fmt.Errorf("reading %s: %w", schemas.ArchiveFiles, err)
		}
		named := map[string]bool{}
		for _, e := range m.Files() {
			named[e.Object] = true
		}
		missing := 0
		for _, p := range parts {
			for _, f := range p.files {
				if !named[f.object.Key] && !p.marked(f) {
					missing++
				}
			}
		}
		if missing == 0 || wait.Err() != nil {
			break
		}
		// An object is put before its event is committed, and marked after it has left the manifest: the archiver may be
		// between the two.
		select {
		case <-wait.Done():
		case <-time.After(200 * time.Millisecond):
		}
		listing, err := List(ctx, v.Bucket, v.Prefix, v.Topic)
		if err != nil {
			return fmt.Errorf("listing the archive: %w", err)
		}
		for mark, info := range listing.Marks {
			get(mark.Topic, mark.Partition).marks[mark.First] = info
		}
	}
	for _, e := range m.Files() {
		p := get(e.Topic, e.Partition)
		p.events = append(p.events, e)
	}
	for _, p := range parts {
		if p.out.Partition < 0 {
			continue
		}
		if err := p.match(ctx); err != nil {
			return err
		}
	}
	return nil
}

// marked says whether the archive's retention has let the file go.
func (p *part) marked(f *file) bool {
	_, ok := p.marks[f.object.First]
	return ok
}

// letGo reads where the archive's retention ends.
func (p *part) letGo(ctx context.Context) error {
	next, err := LetGo(ctx, p.v.Bucket, p.marks)
	if errors.Is(err, archive.ErrFormat) {
		p.problem(-1, "", err.Error(), "write its two lines anew: the object's key, and the offset at which its range ends")
		return nil
	}
	p.out.Left = next
	return err
}

func (p *part) match(ctx context.Context) error {
	byKey := map[string]*file{}
	for _, f := range p.files {
		byKey[f.object.Key] = f
	}
	for i := range p.events {
		e := &p.events[i]
		f := byKey[e.Object]
		if f == nil {
			info, err := p.v.Bucket.Head(ctx, e.Object)
			if errors.Is(err, blob.ErrNotFound) {
				p.problem(e.First, e.Object, fmt.Sprintf("the manifest names this object of [%d, %d), and the bucket has none", e.First, e.Next),
					"bring it back from the bucket's versions or a backup")
				continue
			}
			if err != nil {
				return fmt.Errorf("looking for an object of the manifest: %w", err)
			}
			name, ok := archive.ParseName(e.Object)
			if !ok || e.Object != keyOf(p.v.Prefix, name) {
				p.problem(e.First, e.Object, "the manifest names an object that is not named as its range, or lies outside of the prefix",
					"copy the object to the name of its range and correct its event in "+schemas.ArchiveFiles)
				continue
			}
			f = &file{object: Object{name, info.Key, info.Size}}
			p.files, byKey[info.Key] = append(p.files, f), f
		}
		if f.event != nil {
			p.problem(e.First, e.Object, "the manifest has two events of this object", "delete one of them in "+schemas.ArchiveFiles+" by a tombstone")
		}
		f.event = e
	}
	slices.SortFunc(p.files, func(a, b *file) int {
		return cmp.Or(cmp.Compare(a.object.First, b.object.First), strings.Compare(a.object.Key, b.object.Key))
	})
	for _, f := range p.files {
		if f.event == nil && !p.marked(f) {
			p.problem(f.object.First, f.object.Key, "the bucket has this object, and the manifest does not name it",
				"let the archiver run: it adopts the object where its next range begins; if it has passed that offset, move the object away")
		}
	}
	return nil
}

// all verifies the partitions, several at a time, and reports them in order.
func (v *Verifier) all(ctx context.Context, parts map[place]*part, each func(*Verified) error) error {
	order := make([]place, 0, len(parts))
	for at := range parts {
		order = append(order, at)
	}
	slices.SortFunc(order, func(a, b place) int {
		return cmp.Or(strings.Compare(a.topic, b.topic), cmp.Compare(a.partition, b.partition))
	})
	ends, err := v.topics(ctx, order)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(max(1, v.Workers) + 1) // one reports
	done := make([]chan struct{}, len(order))
	for i := range done {
		done[i] = make(chan struct{})
	}
	g.Go(func() error {
		for i, at := range order {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-done[i]:
			}
			if err := each(parts[at].out); err != nil {
				return err
			}
		}
		return nil
	})
	for i, at := range order {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := parts[at].verify(ctx, ends[at]); err != nil {
				return fmt.Errorf("verifying %s/%d: %w", at.topic, at.partition, err)
			}
			close(done[i])
			return nil
		})
	}
	return g.Wait()
}

func (p *part) problem(offset int64, object, what, next string) {
	p.out.Problems = append(p.out.Problems, Problem{p.out.Topic, p.out.Partition, offset, object, what, next})
}

// verify reads the partition's objects, in order, beside the topic's records.
func (p *part) verify(ctx context.Context, bounds *bounds) error {
	if p.out.Partition < 0 {
		return nil
	}
	if err := p.letGo(ctx); err != nil {
		return err
	}
	var topic *tail
	defer func() {
		if topic != nil {
			topic.close()
		}
	}()
	var last *file
	for i, f := range p.files {
		p.out.Files++
		p.out.Size += f.object.Size
		if p.marked(f) {
			p.out.Leaving++
		}
		if i == 0 && p.out.Left > 0 && f.object.First > p.out.Left {
			p.problem(p.out.Left, "", fmt.Sprintf("offsets %d to %d are in no object: the archive's retention let go what is below %d, and the first object is %s",
				p.out.Left, f.object.First-1, p.out.Left, path.Base(f.object.Key)), "bring the missing object back from the bucket's versions or a backup")
		}
		if last != nil && !p.consecutive(last, f) {
			// What it holds is counted with the one before.
			if err := p.object(ctx, f, nil); err != nil {
				return err
			}
			continue
		}
		if i == 0 && bounds != nil {
			var err error
			if topic, err = p.begin(ctx, f, bounds); err != nil {
				return err
			}
		}
		if err := p.object(ctx, f, topic); err != nil {
			return err
		}
		if last = nil; i == 0 {
			p.out.First, p.out.Next = f.object.First, f.object.First
		}
		if next, ok := f.next(); ok {
			last, p.out.Next = f, next
		}
		if f.footer != nil {
			p.out.Rows += f.footer.Rows
			p.out.DeadLetters += f.footer.DeadLetters
		}
	}
	p.ends(bounds)
	return nil
}

// ends compares the end of the partition's objects with what the archiver and the topic say.
func (p *part) ends(bounds *bounds) {
	if bounds != nil && len(p.files) > 0 {
		p.out.Behind = max(0, bounds.end-p.out.Next)
	}
	switch {
	case len(p.files) > 0 && p.committed > p.out.Next:
		p.problem(p.out.Next, "", fmt.Sprintf("the archiver has committed offset %d, and the last object ends at %d", p.committed, p.out.Next),
			"bring the missing objects back from the bucket's versions or a backup")
	case len(p.files) == 0 && bounds != nil && p.committed > bounds.start:
		p.problem(bounds.start, "", fmt.Sprintf("the archiver has committed offset %d, and there is no object", p.committed),
			"bring the objects back from the bucket's versions or a backup")
	}
}

// consecutive tells whether f is to be counted after last: everything but an overlap.
func (p *part) consecutive(last, f *file) bool {
	next, _ := last.next()
	switch {
	case f.object.First > next:
		p.problem(next, "", fmt.Sprintf("offsets %d to %d are in no object: the next one is %s", next, f.object.First-1, path.Base(f.object.Key)),
			"bring the missing object back from the bucket's versions or a backup")
	case f.object.First < next:
		p.problem(f.object.First, f.object.Key, fmt.Sprintf("it begins inside the range [%d, %d) of %s", last.object.First, next, path.Base(last.object.Key)),
			"move the one away that the manifest does not name, or that holds fewer rows")
		return false
	}
	return true
}
