package history

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"databus/pkg/archive"
	"databus/pkg/blob"
	"databus/schemas"
)

const fromBackup = "bring the object back, byte for byte, from the bucket's versions or a backup"

// object fetches an object once and proves everything about it: checksum, footer, name, event, rows, and the topic's
// records of its range.
func (p *part) object(ctx context.Context, f *file, topic *tail) error {
	local, sum, size, err := fetch(ctx, p.v.Bucket, f.object.Key)
	if errors.Is(err, blob.ErrNotFound) {
		if p.marked(f) { // a day has passed meanwhile
			return nil
		}
		p.problem(f.object.First, f.object.Key, "it was listed and has gone since", fromBackup)
		return nil
	}
	if err != nil {
		return err
	}
	defer func() {
		_ = local.Close()
		_ = os.Remove(local.Name())
	}()
	if e := f.event; e != nil && (e.Bytes != size || string(e.Sha256) != string(sum)) {
		p.problem(f.object.First, f.object.Key, fmt.Sprintf("it has %d bytes with SHA-256 %s, the manifest says %d with %s",
			size, hex.EncodeToString(sum), e.Bytes, hex.EncodeToString(e.Sha256)), fromBackup)
	}
	r, err := archive.NewReader(local, size)
	if err != nil {
		p.problem(f.object.First, f.object.Key, fmt.Sprintf("it cannot be read: %v", err), fromBackup)
		return nil
	}
	defer r.Close() //nolint:errcheck // a local file
	footer := r.Footer()
	if footer.Topic != f.object.Topic || footer.Partition != f.object.Partition || footer.First != f.object.First {
		p.problem(f.object.First, f.object.Key, fmt.Sprintf("its name is wrong: its footer says topic %s, partition %d, first offset %d", footer.Topic, footer.Partition, footer.First),
			"give it back the name of its range")
		return nil
	}
	f.footer = &footer
	p.agrees(f)
	return p.rows(ctx, f, r, topic)
}

// fetch copies an object to a temporary file.
func fetch(ctx context.Context, bucket blob.Bucket, key string) (_ *os.File, sum []byte, size int64, err error) {
	body, _, err := bucket.Get(ctx, key)
	if err != nil {
		return nil, nil, 0, err
	}
	defer body.Close()
	local, err := os.CreateTemp("", "databus-verify-*.parquet")
	if err != nil {
		return nil, nil, 0, fmt.Errorf("making a temporary file: %w", err)
	}
	hash := sha256.New()
	if size, err = io.Copy(io.MultiWriter(local, hash), body); err != nil {
		_ = local.Close()
		_ = os.Remove(local.Name())
		return nil, nil, 0, fmt.Errorf("fetching object %s: %w", key, err)
	}
	return local, hash.Sum(nil), size, nil
}

// agrees compares event and footer.
func (p *part) agrees(f *file) {
	e, is := f.event, f.footer
	if e == nil {
		return
	}
	for _, c := range []struct {
		name     string
		is, says any
	}{
		{"first", is.First, e.First}, {"next", is.Next, e.Next}, {"rows", is.Rows, e.Rows}, {"dead letters", is.DeadLetters, e.DeadLetters},
		{"schema id", int32(is.SchemaID), e.SchemaID}, {"encoder version", is.EncoderVersion, e.EncoderVersion},
	} {
		if c.is != c.says {
			p.problem(is.First, f.object.Key, fmt.Sprintf("its footer says %s %v, the manifest %v", c.name, c.is, c.says),
				"correct the event in "+schemas.ArchiveFiles+" if the object's checksum holds, else "+fromBackup)
		}
	}
}

// rows compares the object's rows with the topic's records, and, if deep, with what they promise. Rows are read as far as
// a proof needs them.
func (p *part) rows(ctx context.Context, f *file, r *archive.Reader, topic *tail) error {
	compared := topic != nil && topic.holds(f.footer.First)
	if compared {
		// Past what the object before left: it is missing, or could not be read.
		err := topic.until(ctx, f.footer.First, func(int64) {})
		var gone *goneError
		if compared = !errors.As(err, &gone); err != nil && compared {
			return err
		} else if !compared && gone.problem != "" {
			return p.counted(f, 0, err)
		}
	}
	w := &rowsOf{part: p, file: f, reader: r, deep: p.v.Deep}
	if !w.deep {
		if f.footer.Rows > 0 {
			w.advance() // the hour
		}
		if !compared {
			return nil
		}
		n := int64(0)
		err := topic.until(ctx, f.footer.Next, func(int64) { n++ })
		return p.counted(f, n, err)
	}
	var missing int64
	var err error
	if compared {
		w.advance()
		err = topic.until(ctx, f.footer.Next, func(offset int64) {
			for w.at >= 0 && w.at < offset {
				w.unknown()
				w.advance()
			}
			if w.at == offset {
				w.advance()
			} else {
				missing++
			}
		})
		for err == nil && w.at >= 0 {
			w.unknown()
			w.advance()
		}
	} else {
		for w.advance(); w.at >= 0; {
			w.advance()
		}
	}
	w.end()
	if !compared || w.broken {
		return nil
	}
	if err == nil && w.strange > 0 && w.known+missing == f.footer.Rows+f.footer.DeadLetters {
		p.problem(f.footer.First, f.object.Key, fmt.Sprintf("%d rows and %d dead letters of the range are right in sum, not one by one", f.footer.Rows, f.footer.DeadLetters),
			"check that this is the archive of this cluster's topic")
	}
	return p.counted(f, w.known+missing, err)
}

// counted compares the number of committed records with what the footer accounts for.
func (p *part) counted(f *file, committed int64, err error) error {
	var gone *goneError
	if errors.As(err, &gone) {
		if gone.problem != "" {
			p.problem(f.footer.First, f.object.Key, gone.problem, "check that this is the archive of this cluster's topic")
		}
		return nil // retention took the records meanwhile
	}
	if err != nil {
		return err
	}
	p.out.Counted++
	if is := f.footer; committed != is.Rows+is.DeadLetters {
		p.problem(is.First, f.object.Key, fmt.Sprintf("the topic has %d committed records in [%d, %d), the object %d rows and %d dead letters",
			committed, is.First, is.Next, is.Rows, is.DeadLetters),
			"keep the topic's records (longer retention), move object and event away, and archive the range again")
	}
	return nil
}

// rowsOf reads the rows of one object.
type rowsOf struct {
	*part
	file    *file
	reader  *archive.Reader
	deep    bool
	at      int64 // offset of the current row; -1: there is none
	read    int64
	known   int64 // rows that are records of the topic, or not compared
	strange int64 // rows that the topic has no record of
	least   int64
	most    int64
	broken  bool
}

// advance reads a row and checks it.
func (w *rowsOf) advance() {
	w.at = -1
	if w.broken {
		return
	}
	rec, err := w.reader.Next()
	if errors.Is(err, io.EOF) {
		return
	}
	f := w.file
	if err != nil {
		w.broken = true
		w.problem(f.footer.First, f.object.Key, fmt.Sprintf("its rows cannot be read after %d of %d: %v", w.read, f.footer.Rows, err), fromBackup)
		return
	}
	if w.read == 0 {
		w.least, w.most = rec.Timestamp, rec.Timestamp
		// With dead letters, the first record may not be a row.
		if hour := archive.HourOf(rec.Timestamp); f.footer.DeadLetters == 0 && hour != f.object.Hour {
			w.problem(rec.Offset, f.object.Key, fmt.Sprintf("its name is wrong: its first record is of %s", hour), "give it back the name of its range")
		}
	}
	w.least, w.most = min(w.least, rec.Timestamp), max(w.most, rec.Timestamp)
	if rec.Value != nil {
		if err := w.reader.Schema().Check(rec.Value); err != nil {
			w.problem(rec.Offset, f.object.Key, fmt.Sprintf("the row's value does not follow the object's schema: %v", err), fromBackup)
		}
	}
	w.at = rec.Offset
	w.read++
	w.known++
}

// unknown notes that the current row is no record of the topic.
func (w *rowsOf) unknown() {
	w.known--
	if w.strange++; w.strange <= maxStrange {
		w.problem(w.at, w.file.object.Key, "the row is no committed record of the topic", "check that this is the archive of this cluster's topic")
	}
}

// maxStrange bounds the problems of one object: a wrong object would have as many as rows.
const maxStrange = 5

// end compares what was read of all rows with the footer.
func (w *rowsOf) end() {
	f := w.file
	if w.broken {
		return
	}
	if w.read != f.footer.Rows {
		w.problem(f.footer.First, f.object.Key, fmt.Sprintf("it has %d rows, its footer says %d", w.read, f.footer.Rows), fromBackup)
	}
	if w.read > 0 && (w.least != f.footer.MinTimestamp || w.most != f.footer.MaxTimestamp) {
		w.problem(f.footer.First, f.object.Key, fmt.Sprintf("its rows are of %d to %d ms, its footer says %d to %d", w.least, w.most, f.footer.MinTimestamp, f.footer.MaxTimestamp), fromBackup)
	}
}
