package archiver

import (
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
	file   *os.File
	size   int64
	sha    []byte
	footer archive.Footer
	reader *archive.Reader
	row    int64 // offset of the reader's current row; -1 at the end
}

// adopt fetches the object under key into a local file and checks it against its name and itself.
func (a *Archiver) adopt(ctx context.Context, p *partition, key string) (_ *adoption, err error) {
	ad := &adoption{key: key}
	body, _, err := a.bucket.Get(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("adopting: %w", err)
	}
	defer body.Close()
	if ad.file, err = os.OpenFile(p.objectPath(a.spoolDir)+".adopted", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600); err != nil {
		return nil, fmt.Errorf("adopting: %w", err)
	}
	defer func() {
		if err != nil {
			ad.close()
		}
	}()
	sum := sha256.New()
	if ad.size, err = io.Copy(io.MultiWriter(ad.file, sum), body); err != nil {
		return nil, fmt.Errorf("adopting object %q: %w", key, err)
	}
	ad.sha = sum.Sum(nil)
	if ad.reader, err = archive.NewReader(ad.file, ad.size); errors.Is(err, archive.ErrFormat) {
		return nil, invalid(key, err)
	} else if err != nil {
		return nil, fmt.Errorf("adopting object %q: %w", key, err)
	}
	ad.footer = ad.reader.Footer()
	if f := ad.footer; f.Topic != p.topic || f.Partition != p.id || f.First != p.first {
		return nil, invalid(key, fmt.Errorf("its footer says topic %s, partition %d, first offset %d", f.Topic, f.Partition, f.First))
	}
	return ad, ad.advance()
}

// invalid stops the partition for an object that nobody may replace.
func invalid(key string, err error) error {
	return &stop{fmt.Sprintf("object %q stands where this range belongs and is not valid: %v; "+
		"objects are never replaced: look at it, move it away by hand, and restart", key, err)}
}

func (ad *adoption) advance() error {
	rec, err := ad.reader.Next()
	switch {
	case err == io.EOF:
		ad.row = -1
		return nil
	case errors.Is(err, archive.ErrFormat):
		return invalid(ad.key, err)
	case err != nil:
		return err
	}
	ad.row = rec.Offset
	return nil
}

// take compares one of the topic's records: it is the object's next row, or a dead letter, which is spooled.
func (ad *adoption) take(rec *archive.Record, dead *spool) error {
	if ad.row >= 0 && ad.row < rec.Offset {
		return invalid(ad.key, fmt.Errorf("it has a row of offset %d, which the topic has not", ad.row))
	}
	if ad.row == rec.Offset {
		return ad.advance()
	}
	return dead.Append(rec)
}

// finish checks the sums once all records of the range were taken.
func (ad *adoption) finish(dead *spool) (*object, error) {
	if ad.row >= 0 || dead.Records != ad.footer.DeadLetters {
		return nil, invalid(ad.key, fmt.Errorf("the topic has %d records of its range that are no rows, its footer counts %d dead letters, the next row is %d",
			dead.Records, ad.footer.DeadLetters, ad.row))
	}
	o := &object{key: ad.key, size: ad.size, sha: ad.sha, footer: ad.footer, put: true, dead: map[int64]string{}}
	err := dead.Each(func(rec *archive.Record) error {
		o.dead[rec.Offset] = "the writer of the object could not decode it"
		return nil
	})
	return o, err
}

func (ad *adoption) close() {
	if ad.reader != nil {
		ad.reader.Close()
	}
	if ad.file != nil {
		ad.file.Close()
		os.Remove(ad.file.Name())
	}
}

// freeze makes sure, once, that the topic's objects have been written with the settings of today.
func (a *Archiver) freeze(ctx context.Context, topic string) error {
	if _, done := a.frozen.Load(topic); done {
		return nil
	}
	err := archive.Freeze(ctx, a.bucket, a.cfg.Prefix, archive.NewLayout(topic, slices.Contains(a.cfg.KeyFilters, topic)))
	if errors.Is(err, archive.ErrLayout) {
		return &stop{fmt.Sprintf("%v; set archiver.key_filters as it was, or archive the topic below another prefix", err)}
	}
	if err != nil {
		return err
	}
	a.frozen.Store(topic, true)
	return nil
}

// upload puts the object where none is yet. Where one is, the result is an adoption, unless it is the same object:
// an attempt of our own whose answer was lost.
func (a *Archiver) upload(ctx context.Context, p *partition, o *object) (*adoption, error) {
	ctx, cancel := context.WithTimeout(ctx, a.cfg.PutTimeout)
	defer cancel()
	if err := a.freeze(ctx, p.topic); err != nil {
		return nil, err
	}
	_, err := a.bucket.Put(ctx, o.key, o.body(), blob.PutOptions{CreateOnly: true})
	if err == nil {
		o.put = true
		return nil, nil
	}
	if !errors.Is(err, blob.ErrExists) {
		return nil, err
	}
	ad, err := a.adopt(ctx, p, o.key)
	if err != nil {
		return nil, err
	}
	if string(ad.sha) == string(o.sha) {
		ad.close()
		o.put = true
		return nil, nil
	}
	return ad, nil
}
