package archiver

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/archive"
	"databus/pkg/blob"
	"databus/pkg/history"
	"databus/schemas"
	"databus/schemas/event"
)

const (
	expireEvery = 10 * time.Minute
	// stayFor is how long an object stays in the bucket behind its leaving of the manifest: for those who read it.
	stayFor = 24 * time.Hour
)

// expire lets old objects go, where the configuration says so: first from the manifest, and a day later from the bucket.
// Only the oldest of a partition go, in their order, and never its last one: what is left is a chain without a gap up to
// the committed offset. A mark in the bucket says since when an object is out of the manifest; an object that the manifest may
// not have named yet is behind the chain and never touched.
func (a *Archiver) expire(ctx context.Context, now time.Time) error {
	if a.cfg.KeepFor == 0 || a.chain == nil || !a.chain.IsReady() || now.Sub(a.expired) < expireEvery {
		return nil
	}
	assigned := a.assigned()
	if len(assigned) == 0 {
		return nil // it has just started: its turn is not over with this
	}
	a.expired = now
	if err := a.chain.CaughtUp(ctx); err != nil {
		return nil // at the end
	}
	byPartition := map[tp][]event.ArchiveFile{}
	for _, f := range a.chain.Files() {
		at := tp{f.Topic, f.Partition}
		byPartition[at] = append(byPartition[at], f)
	}
	for _, p := range assigned {
		files := byPartition[tp{p.topic, p.id}]
		if p.stopped != "" || len(files) == 0 {
			continue
		}
		n := 0
		for n < len(files)-1 && files[n].Next <= p.first && a.newest(files[n]).Before(now.Add(-a.cfg.KeepFor)) {
			n++
		}
		if err := a.withdraw(ctx, p, files[:n]); err != nil {
			return err
		}
		if err := a.clear(ctx, p, files[n].First, now); err != nil {
			a.Log.Warn("removing old objects", "topic", p.topic, "partition", p.id, "error", err)
		}
	}
	return nil
}

// newest is the time of an object's newest record; where all were dead letters, the end of its hour.
func (a *Archiver) newest(f event.ArchiveFile) time.Time {
	if f.MaxTimestamp != nil {
		return *f.MaxTimestamp
	}
	name, _ := archive.ParseName(f.Object)
	hour, err := time.Parse("dt=2006-01-02/hr=15", name.Hour)
	if err != nil {
		return time.Now()
	}
	return hour.Add(time.Hour)
}

// withdraw takes files out of the manifest.
func (a *Archiver) withdraw(ctx context.Context, p *partition, files []event.ArchiveFile) error {
	if len(files) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*a.TransactionTimeout)
	defer cancel()
	if err := a.client.BeginTransaction(); err != nil {
		return &fatal{fmt.Errorf("beginning the transaction: %w", err)}
	}
	var records []*kgo.Record
	for _, f := range files {
		key := schemas.JoinKey(f.Topic, strconv.Itoa(int(f.Partition)), strconv.FormatInt(f.First, 10))
		records = append(records, &kgo.Record{Topic: schemas.ArchiveFiles, Key: []byte(key)})
	}
	if err := a.client.ProduceSync(ctx, records...).FirstErr(); err != nil {
		if abortErr := a.abort(ctx); abortErr != nil || isFenced(err) {
			return &fatal{fmt.Errorf("withdrawing old objects: %w", errors.Join(err, abortErr))}
		}
		a.Log.Warn("withdrawing old objects", "topic", p.topic, "partition", p.id, "error", err)
		return nil
	}
	if err := a.client.EndTransaction(ctx, kgo.TryCommit); err != nil {
		return &fatal{fmt.Errorf("withdrawing old objects: the outcome is unknown: %w", err)}
	}
	a.Log.Info("old objects have left the manifest", "topic", p.topic, "partition", p.id, "objects", len(files),
		"first", files[0].First, "next", files[len(files)-1].Next)
	return nil
}

// clear marks the objects below the chain's beginning, and removes those that were marked a day ago, and then their marks.
// The last mark stays: it says up to where the archive was let go.
func (a *Archiver) clear(ctx context.Context, p *partition, beginning int64, now time.Time) error {
	listing, err := history.List(ctx, a.bucket, a.cfg.Prefix, p.topic)
	if err != nil {
		return err
	}
	var old []history.Object // in their order
	there := map[int64]bool{}
	for _, o := range listing.Objects {
		if o.Partition == p.id && o.First < beginning {
			old, there[o.First] = append(old, o), true
		}
	}
	for i, o := range old {
		mark, marked := listing.Marks[archive.Name{Topic: p.topic, Partition: p.id, First: o.First}]
		switch {
		case !marked:
			next := beginning
			if i+1 < len(old) {
				next = old[i+1].First
			}
			text := archive.Mark{Object: o.Key, Next: next}.String()
			_, err = a.bucket.Put(ctx, archive.MarkName(a.cfg.Prefix, p.topic, p.id, o.First), strings.NewReader(text), blob.PutOptions{CreateOnly: true})
			if errors.Is(err, blob.ErrExists) {
				err = nil
			}
		case now.Sub(mark.ModTime) >= stayFor:
			if err = a.bucket.Delete(ctx, o.Key); err == nil {
				a.Log.Info("an old object is removed", "object", o.Key)
			}
		}
		if err != nil {
			return err
		}
	}
	var last int64
	for mark := range listing.Marks {
		if mark.Partition == p.id {
			last = max(last, mark.First)
		}
	}
	for mark, info := range listing.Marks {
		if mark.Partition == p.id && mark.First < last && !there[mark.First] {
			if err := a.bucket.Delete(ctx, info.Key); err != nil {
				return err
			}
		}
	}
	return nil
}
