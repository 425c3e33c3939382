package archiver

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"databus/pkg/archive"
	"databus/pkg/blob"
)

// adoption is an object that was in the bucket already: whoever put it first decided the range. Its rows are compared
// with the topic's records, offset by offset; what it lacks are its dead letters.
type adoption struct {
	key    string
	size   int64
	sha    []byte
	footer archive.Footer
	rows   []run // of its rows, those that have not been met; the topic's holes lie between
}

// run is a range of offsets, to not in it.
type run struct{ from, to int64 }

// adopt fetches the object under key into a local file, checks it against its name and itself, and notes the offsets of its
// rows. It is nil if it is the same as own, by checksum. Workers bound how many objects are read at the same time, which takes
// memory where they are sorted; what is noted for all partitions is little.
func (a *Archiver) adopt(ctx context.Context, p *partition, key string, own []byte) (*adoption, error) {
	ad := &adoption{key: key}
	body, _, err := a.bucket.Get(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("adopting: %w", err)
	}
	defer body.Close()
	file, err := os.OpenFile(p.adoptedPath(a.spoolDir), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("adopting: %w", err)
	}
	defer func() {
		file.Close()
		os.Remove(file.Name()) // if it stays, the next start removes it
	}()
	sum := sha256.New()
	if ad.size, err = io.Copy(io.MultiWriter(file, sum), body); err != nil {
		return nil, fmt.Errorf("adopting object %q: %w", key, err)
	}
	if ad.sha = sum.Sum(nil); bytes.Equal(ad.sha, own) {
		return nil, nil
	}
	if err := ad.read(file); errors.Is(err, archive.ErrFormat) {
		return nil, invalid(key, err)
	} else if err != nil {
		return nil, fmt.Errorf("adopting object %q: %w", key, err)
	}
	if f := ad.footer; f.Topic != p.topic || f.Partition != p.id || f.First != p.first {
		return nil, invalid(key, fmt.Errorf("its footer says topic %s, partition %d, first offset %d", f.Topic, f.Partition, f.First))
	}
	return ad, nil
}

// read reads the object to its end.
func (ad *adoption) read(file *os.File) error {
	r, err := archive.NewReader(file, ad.size)
	if err != nil {
		return err
	}
	defer r.Close()
	ad.footer = r.Footer()
	for {
		rec, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if n := len(ad.rows); n > 0 && ad.rows[n-1].to == rec.Offset {
			ad.rows[n-1].to++
		} else {
			ad.rows = append(ad.rows, run{rec.Offset, rec.Offset + 1})
		}
	}
}

// invalid stops the partition for an object that nobody may replace.
func invalid(key string, err error) error {
	return &stop{fmt.Sprintf("object %q stands where this range belongs and is not valid: %v; "+
		"objects are never replaced: look at it, move it away by hand, and restart", key, err)}
}

// row is the offset of the next row that has not been met; -1 is none.
func (ad *adoption) row() int64 {
	if len(ad.rows) == 0 {
		return -1
	}
	return ad.rows[0].from
}

// take compares one of the topic's records: it is the object's next row, or a dead letter, which is spooled.
func (ad *adoption) take(rec *archive.Record, dead *spool) error {
	switch row := ad.row(); {
	case row >= 0 && row < rec.Offset:
		return invalid(ad.key, fmt.Errorf("it has a row of offset %d, which the topic has not", row))
	case row != rec.Offset:
		return dead.Append(rec)
	}
	if ad.rows[0].from++; ad.rows[0].from == ad.rows[0].to {
		ad.rows = ad.rows[1:]
	}
	return nil
}

// finish checks the sums once all records of the range were taken.
func (ad *adoption) finish(dead *spool) (*object, error) {
	if ad.row() >= 0 || dead.Records != ad.footer.DeadLetters {
		return nil, invalid(ad.key, fmt.Errorf("the topic has %d records of its range that are no rows, its footer counts %d dead letters, the next row is %d",
			dead.Records, ad.footer.DeadLetters, ad.row()))
	}
	o := &object{key: ad.key, size: ad.size, sha: ad.sha, footer: ad.footer, dead: map[int64]string{}}
	err := dead.Each(func(rec *archive.Record) error {
		o.dead[rec.Offset] = "the writer of the object could not decode it"
		return nil
	})
	return o, err
}

// freeze makes sure, once, that the topic's objects have been written with the settings of today.
func (a *Archiver) freeze(ctx context.Context, topic string) error {
	if _, done := a.frozen.Load(topic); done {
		return nil
	}
	layout := archive.NewLayout(topic, slices.Contains(a.cfg.KeyFilters, topic))
	layout.SortBy = a.cfg.sortBy(topic)
	err := archive.Freeze(ctx, a.bucket, a.cfg.Prefix, layout)
	if errors.Is(err, archive.ErrLayout) {
		return &stop{fmt.Sprintf("%v; set archiver.key_filters and archiver.sort_by as they were, or archive the topic below another prefix", err)}
	}
	if err != nil {
		return err
	}
	a.frozen.Store(topic, true)
	return nil
}

// upload puts the range's object where none is yet. Where one is, the result is an adoption, unless it is the same object:
// an attempt of our own whose answer was lost.
func (a *Archiver) upload(ctx context.Context, p *partition) (ad *adoption, err error) {
	err = a.inTime(ctx, func(ctx context.Context) error {
		o, err := a.put(ctx, p, func(*object) error { return a.step(Encoded, p) })
		if errors.Is(err, blob.ErrExists) {
			ad, err = a.adopt(ctx, p, o.key, o.sha)
		}
		if err == nil && ad == nil {
			p.object = o
		}
		return err
	})
	return ad, err
}
