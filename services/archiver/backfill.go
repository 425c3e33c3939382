package archiver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/archive"
	"databus/pkg/blob"
	"databus/pkg/history"
	"databus/schemas"
	"databus/schemas/event"
)

// Backfill archives what an archive lacks below the group's committed offsets, where running archivers no longer come
// by: offsets before the archive's beginning, and objects that the bucket has lost; not what its own retention let go. It may run
// beside them.
//
// An object that the manifest names is made again for the same range, and put only if its checksum is the manifest's.
// Other ranges are cut by the configuration; their objects are announced in the manifest, their dead letters sent.
// Nothing in the bucket is replaced, and no offset of the group is moved. A run that was ended is run again.
type Backfill struct {
	Config Config
	// Parts are those of an Archiver; TransactionalID and SpoolDir must be the backfill's own.
	Parts Parts
	Topic string
	// From is the first offset that is wanted, in each partition; those that the topic no longer has are left out.
	From int64
}

// Backfilled sums a run up.
type Backfilled struct {
	// Again are objects that were lost, and are there again, New those that were announced first.
	Again, New        int
	Rows, DeadLetters int64
	// Gone are offsets, of From and behind, that neither the archive nor the topic has.
	Gone int64
	// Differing are lost objects of the manifest that came out with another checksum, and were not put.
	Differing []string
}

// hole is a range that no object covers.
type hole struct {
	first, next int64
	schemaID    int                // of the object before
	known       *event.ArchiveFile // by the manifest
}

// Run fills all holes.
func (b Backfill) Run(ctx context.Context) (sum Backfilled, err error) {
	cfg := b.Config
	cfg.Topics, cfg.Patterns = []string{b.Topic}, nil
	cfg.SortBy = slices.DeleteFunc(slices.Clone(cfg.SortBy), func(s string) bool { return !strings.HasPrefix(s, b.Topic+"=") })
	a, err := Open(cfg, b.Parts)
	if err != nil {
		return sum, err
	}
	a.client, err = kgo.NewClient(append(slices.Clone(b.Parts.Client), kgo.TransactionalID(a.TransactionalID), kgo.TransactionTimeout(a.TransactionTimeout))...)
	if err != nil {
		return sum, fmt.Errorf("opening the Kafka client: %w", err)
	}
	defer a.client.Close()
	a.admin = kadm.NewClient(a.client)
	if _, _, err := a.client.ProducerID(ctx); err != nil {
		return sum, fmt.Errorf("initialising the transactional producer: %w", err)
	}
	if err := a.manifest.Ready(ctx); err != nil {
		return sum, fmt.Errorf("preparing the manifest: %w", err)
	}
	holes, gone, err := b.holes(ctx, a)
	if err != nil {
		return sum, err
	}
	sum.Gone = gone
	for id, list := range holes {
		for _, h := range list {
			if err := a.fill(ctx, b.Topic, id, h, &sum); err != nil {
				return sum, fmt.Errorf("filling [%d, %d) of %s/%d: %w", h.first, h.next, b.Topic, id, err)
			}
		}
	}
	return sum, nil
}

// holes compares the bucket with the committed offsets, with the manifest's help.
func (b Backfill) holes(ctx context.Context, a *Archiver) (map[int32][]hole, int64, error) {
	committed, err := a.admin.FetchOffsets(ctx, Name)
	if err != nil {
		return nil, 0, fmt.Errorf("asking for the group's offsets: %w", err)
	}
	starts, err := a.startOffsets(ctx, []string{b.Topic})
	if err != nil {
		return nil, 0, err
	}
	listing, err := history.List(ctx, a.bucket, a.cfg.Prefix, b.Topic)
	if err != nil {
		return nil, 0, fmt.Errorf("listing the archive: %w", err)
	}
	files, err := b.files(ctx, a, listing)
	if err != nil {
		return nil, 0, err
	}
	all := map[int32][]hole{}
	gone := int64(0)
	for id, offset := range committed[b.Topic] {
		start, ok := starts.Lookup(b.Topic, id)
		if !ok || offset.At <= 0 {
			continue
		}
		left, err := history.LetGo(ctx, a.bucket, listing.MarksOf(b.Topic, id))
		if err != nil {
			return nil, 0, err
		}
		at, schemaID := max(b.From, left), 0 // what the archive's own retention let go is no hole
		note := func(next int64, known *event.ArchiveFile) {
			if at < start.Offset { // it begins with what the topic has lost
				lost := min(start.Offset, next)
				if known != nil {
					lost = next // a part of an object is no object
				}
				gone += lost - at
				at = lost
			}
			if at < next {
				all[id] = append(all[id], hole{at, next, schemaID, known})
			}
			at = next
		}
		for _, f := range files[id] {
			if f.Next <= at {
				schemaID = int(f.SchemaID)
				continue
			}
			if f.First > at {
				note(f.First, nil)
			}
			if f.lost && f.First >= b.From {
				note(f.Next, &f.ArchiveFile)
			}
			at, schemaID = f.Next, int(f.SchemaID)
		}
		if at < offset.At {
			note(offset.At, nil)
		}
	}
	return all, gone, nil
}

// file is an object that the bucket has, or had.
type file struct {
	event.ArchiveFile
	lost bool
}

// files lists the objects of each partition, in order: those of the manifest, and those that only the bucket knows.
func (b Backfill) files(ctx context.Context, a *Archiver, listing *history.Listing) (map[int32][]file, error) {
	manifest, err := history.Follow(ctx, b.Parts.Client, a.codec, b.Topic, a.Log)
	if err != nil {
		return nil, fmt.Errorf("reading the manifest: %w", err)
	}
	defer manifest.Close()
	if err := manifest.CaughtUp(ctx); err != nil {
		return nil, fmt.Errorf("reading the manifest: %w", err)
	}
	there := map[string]bool{}
	for _, o := range listing.Objects {
		there[o.Key] = true
	}
	all := map[int32][]file{}
	for _, f := range manifest.Files() {
		all[f.Partition] = append(all[f.Partition], file{f, !there[f.Object]})
		delete(there, f.Object)
	}
	for _, o := range listing.Objects {
		if !there[o.Key] {
			continue
		}
		r, err := archive.Open(ctx, a.bucket, o.Key)
		if err != nil {
			return nil, err
		}
		f := r.Footer()
		r.Close()
		all[f.Partition] = append(all[f.Partition], file{ArchiveFile: event.ArchiveFile{
			Topic: f.Topic, Partition: f.Partition, First: f.First, Next: f.Next, SchemaID: int32(f.SchemaID), Object: o.Key,
		}})
	}
	for _, list := range all {
		slices.SortFunc(list, func(x, y file) int { return int(min(1, max(-1, x.First-y.First))) })
	}
	return all, nil
}

// fill reads a hole's records and makes its objects.
func (a *Archiver) fill(ctx context.Context, topic string, id int32, h hole, sum *Backfilled) error {
	p := &partition{topic: topic, id: id, first: h.first, position: h.first, schemaID: h.schemaID}
	if h.known != nil {
		p.schemaID = int(h.known.SchemaID)
	}
	var err error
	if p.spool, err = newSpool(p.spoolPath(a.spoolDir)); err != nil {
		return err
	}
	defer p.spool.Close()
	err = a.scan(ctx, topic, id, h.first, h.next, func(r *kgo.Record) error {
		if !r.Attrs.IsControl() {
			rec := record(r)
			if h.known == nil && (p.cutBefore(rec.Timestamp, a.limits) || p.spool.Records > 0 && p.cutAfter(a.limits)) {
				if err := a.fillOne(ctx, p, nil, sum); err != nil {
					return err
				}
			}
			if p.spool.Records == 0 {
				p.firstTime = rec.Timestamp
			}
			if err := p.spool.Append(&rec); err != nil {
				return err
			}
		}
		// Control records behind the last record belong to its object: no other could hold them.
		p.position = r.Offset + 1
		return nil
	})
	if err != nil || p.spool.Records == 0 {
		return err
	}
	p.position = h.next
	return a.fillOne(ctx, p, h.known, sum)
}

// scan calls fn for the committed and control records of [first, next).
func (a *Archiver) scan(ctx context.Context, topic string, id int32, first, next int64, fn func(*kgo.Record) error) error {
	consumer, err := kgo.NewClient(append(slices.Clone(a.Client), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {id: kgo.NewOffset().At(first)}}))...)
	if err != nil {
		return fmt.Errorf("opening the Kafka client: %w", err)
	}
	defer consumer.Close()
	for {
		fetches := consumer.PollRecords(ctx, pollRecords)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := fetches.Err(); err != nil {
			return fmt.Errorf("reading the topic: %w", err)
		}
		for _, r := range fetches.Records() {
			if r.Offset >= next {
				return nil
			}
			if err := fn(r); err != nil || r.Offset+1 >= next {
				return err
			}
		}
	}
}

// fillOne makes one object of what is spooled.
func (a *Archiver) fillOne(ctx context.Context, p *partition, known *event.ArchiveFile, sum *Backfilled) error {
	o, err := a.putAgain(ctx, p, known)
	if errors.Is(err, errDiffers) {
		sum.Differing = append(sum.Differing, known.Object)
		return p.begin(p.position)
	}
	if err != nil {
		return err
	}
	p.object = o
	sum.Rows += o.footer.Rows
	sum.DeadLetters += o.footer.DeadLetters
	if known != nil {
		sum.Again++
	} else {
		sum.New++
		if err := a.announce(ctx, p); err != nil {
			return err
		}
	}
	a.Log.Info("archived later", "topic", p.topic, "partition", p.id, "first", o.footer.First, "next", o.footer.Next, "object", o.key)
	p.schemaID = o.footer.SchemaID
	return p.begin(o.footer.Next)
}

// errDiffers: the object is not the one that the manifest names.
var errDiffers = errors.New("the object differs from the manifest's")

// putAgain puts an object that nobody else has any business to put, and one that the manifest knows only if it is the same.
func (a *Archiver) putAgain(ctx context.Context, p *partition, known *event.ArchiveFile) (o *object, err error) {
	err = a.inTime(ctx, func(ctx context.Context) error {
		o, err = a.put(ctx, p, func(o *object) error {
			if known != nil && (o.key != known.Object || string(o.sha) != string(known.Sha256)) {
				return errDiffers
			}
			return nil
		})
		if !errors.Is(err, blob.ErrExists) {
			return err
		}
		there, err := a.bucket.Head(ctx, o.key)
		if err == nil && there.Size != o.size {
			err = fmt.Errorf("object %q appeared meanwhile and is another one: is a backfill running elsewhere?", o.key)
		}
		return err
	})
	return o, err
}

// announce writes the manifest event and the dead letters in a transaction without an offset.
func (a *Archiver) announce(ctx context.Context, p *partition) error {
	value, err := a.manifest.Encode(ctx, manifest(p.object))
	if err != nil {
		return fmt.Errorf("encoding the manifest event: %w", err)
	}
	if err := a.client.BeginTransaction(); err != nil {
		return fmt.Errorf("beginning the transaction: %w", err)
	}
	if err := a.send(ctx, p, value); err != nil {
		return errors.Join(err, a.abort(ctx))
	}
	if err := a.client.EndTransaction(ctx, kgo.TryCommit); err != nil {
		return fmt.Errorf("announcing the object: the outcome is unknown and the next run reads it: %w", err)
	}
	return nil
}

// send produces the manifest event and the dead letters.
func (a *Archiver) send(ctx context.Context, p *partition, value []byte) error {
	var mu sync.Mutex
	var failed error
	promise := func(_ *kgo.Record, err error) {
		mu.Lock()
		defer mu.Unlock()
		failed = errors.Join(failed, err)
	}
	f := p.object.footer
	key := schemas.JoinKey(f.Topic, strconv.Itoa(int(f.Partition)), strconv.FormatInt(f.First, 10))
	a.client.Produce(ctx, &kgo.Record{Topic: schemas.ArchiveFiles, Key: []byte(key), Value: value}, promise)
	if len(p.object.dead) > 0 {
		err := p.spool.Each(func(rec *archive.Record) error {
			if reason, dead := p.object.dead[rec.Offset]; dead {
				a.client.Produce(ctx, deadLetter(p, rec, reason), promise)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if err := a.client.Flush(ctx); err != nil {
		return fmt.Errorf("flushing: %w", err)
	}
	mu.Lock()
	defer mu.Unlock()
	if failed != nil {
		return fmt.Errorf("producing: %w", failed)
	}
	return nil
}
