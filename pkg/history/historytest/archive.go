package historytest

import (
	"bytes"
	"crypto/sha256"
	"fmt"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/archive"
	"databus/pkg/blob"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

// Archive writes what databus.records holds below ends into objects and announces them, each partition from where the
// last call ended, cut at random. skip, if not nil, leaves files out of the manifest.
func (w *World) Archive(from, ends []int64, skip func(event.ArchiveFile) bool) []event.ArchiveFile {
	w.T.Helper()
	text := schemas.MustLookup(schemas.DatabusRecords).AvroSchema()
	schema, err := archive.Compile(text)
	w.must(err)
	parts := make([][]archive.Record, len(ends))
	id := 0
	w.Log(ends, func(rec *kgo.Record) {
		if rec.Offset < from[rec.Partition] {
			return
		}
		n, _, payload, err := w.Codec.Writer(w.T.Context(), schemas.DatabusRecords, rec.Value)
		w.must(err)
		id = n
		parts[rec.Partition] = append(parts[rec.Partition], archive.Record{
			Offset: rec.Offset, Timestamp: rec.Timestamp.UnixMilli(), Key: rec.Key, Value: bytes.Clone(payload),
		})
	})
	serde := codec.For[event.ArchiveFile](w.Codec, schemas.ArchiveFiles)
	var files []event.ArchiveFile
	for p, part := range parts {
		first := from[p]
		for len(part) > 0 {
			size := min(len(part), 1+w.rng.IntN(30))
			next := ends[p]
			if size < len(part) {
				next = part[size-1].Offset + 1
			}
			// Readers get the same records of objects with and without an order.
			file := w.object(schema, archive.Range{Topic: schemas.DatabusRecords, Partition: int32(p), First: first, SchemaID: id, SortBy: []string{"", "_key"}[p%2]}, part[:size], next)
			part, first = part[size:], next
			if skip != nil && skip(file) {
				continue
			}
			value, err := serde.Encode(w.T.Context(), &file)
			w.must(err)
			key := fmt.Sprintf("%s/%d/%d", file.Topic, file.Partition, file.First)
			w.must(w.Client.ProduceSync(w.T.Context(), &kgo.Record{Topic: schemas.ArchiveFiles, Key: []byte(key), Value: value}).FirstErr())
			files = append(files, file)
		}
	}
	return files
}

func (w *World) object(schema *archive.Schema, r archive.Range, records []archive.Record, next int64) event.ArchiveFile {
	w.T.Helper()
	var b bytes.Buffer
	out, err := archive.NewWriter(&b, schema, r)
	w.must(err)
	for i := range records {
		w.must(out.Append(&records[i]))
	}
	footer, err := out.Close(next)
	w.must(err)
	name := archive.ObjectName("archive", r.Topic, r.Partition, r.First, records[0].Timestamp)
	_, err = w.Bucket.Put(w.T.Context(), name, bytes.NewReader(b.Bytes()), blob.PutOptions{CreateOnly: true})
	w.must(err)
	sum := sha256.Sum256(b.Bytes())
	return event.ArchiveFile{
		Topic: r.Topic, Partition: r.Partition, Object: name, First: r.First, Next: next, Rows: footer.Rows, DeadLetters: footer.DeadLetters,
		Bytes: int64(b.Len()), Sha256: sum[:], SchemaID: int32(r.SchemaID), EncoderVersion: footer.EncoderVersion,
	}
}
