package archiver

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"slices"

	"github.com/twmb/avro"

	"databus/pkg/archive"
	"databus/pkg/blob"
	"databus/schemas"
	"databus/schemas/codec"
)

// object is an encoded range.
type object struct {
	key    string
	size   int64
	sha    []byte
	footer archive.Footer
	dead   map[int64]string // offsets of dead letters, and why
}

// stop is an error that no second attempt repairs: the partition stands still until somebody has looked.
type stop struct{ hint string }

func (e *stop) Error() string { return e.hint }

// noSchema stands for the schema of a range in which no value has one; its column is always null.
const noSchema = `"bytes"`

// fileSchemas says how each schema id of a range becomes the file's columns.
type fileSchemas struct {
	id        int
	schema    *archive.Schema
	resolvers map[int]*archive.Resolver
	poison    map[int]string // ids whose records are dead letters
}

// headerSize is the registry's prefix of a value: a zero byte and the schema's id.
const headerSize = 5

func schemaID(value []byte) (int, bool) {
	if len(value) < headerSize || value[0] != 0 {
		return 0, false
	}
	return int(binary.BigEndian.Uint32(value[1:])), true
}

// inTime lets do take as long as an upload may.
func (a *Archiver) inTime(ctx context.Context, do func(context.Context) error) error {
	timed, cancel := context.WithTimeout(ctx, a.cfg.PutTimeout)
	defer cancel()
	err := do(timed)
	if err != nil && timed.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("%w (archiver.put_timeout, %v, is over: lengthen it, or cut smaller objects by max_records or max_bytes)", err, a.cfg.PutTimeout)
	}
	return err
}

// put encodes the spooled range into the bucket, where no object is yet: nothing of it is on a disk of this instance, and a few
// parts at most are in memory. Nothing is published before agree has seen what was encoded, and nothing at all if it returns an
// error. With [blob.ErrExists] the object is what would have been put.
func (a *Archiver) put(ctx context.Context, p *partition, agree func(*object) error) (o *object, err error) {
	if err := a.freeze(ctx, p.topic); err != nil {
		return nil, err
	}
	body, to := io.Pipe()
	encoded := make(chan error, 1)
	go func() {
		var err error
		if o, err = a.encode(ctx, p, to); err == nil {
			err = agree(o)
		}
		if err == nil {
			to.Close()
		} else {
			to.CloseWithError(fmt.Errorf("encoding: %w", err)) // no io.EOF, which would end the object
		}
		encoded <- err
	}()
	_, err = a.bucket.Put(ctx, p.objectName(a.cfg.Prefix), body, blob.PutOptions{CreateOnly: true})
	if errors.Is(err, blob.ErrExists) {
		_, _ = io.Copy(io.Discard, body) // an error is the encoder's
	}
	body.CloseWithError(err)
	if failed := <-encoded; failed != nil && !errors.Is(failed, err) {
		return nil, failed // else it failed because Put had
	}
	return o, err
}

// encode writes the spooled range [first, position) as an object.
func (a *Archiver) encode(ctx context.Context, p *partition, to io.Writer) (*object, error) {
	fs, err := a.chooseSchema(ctx, p, maps.Clone(p.spool.ids))
	if err != nil {
		return nil, err
	}
	o := &object{key: p.objectName(a.cfg.Prefix), dead: map[int64]string{}}
	sum := &summed{to: to, sha: sha256.New()}
	w, err := archive.NewWriter(sum, fs.schema, archive.Range{
		Topic: p.topic, Partition: p.id, First: p.first, SchemaID: fs.id, KeyFilter: slices.Contains(a.cfg.KeyFilters, p.topic),
		SortBy: a.sortBy(p.topic, fs),
	})
	if err != nil {
		return nil, err
	}
	var buf []byte
	err = p.spool.Each(func(rec *archive.Record) error {
		reason, err := fs.append(w, rec, &buf)
		if err != nil || reason == "" {
			return err
		}
		o.dead[rec.Offset] = reason
		return w.DeadLetter(rec.Offset)
	})
	if err != nil {
		return nil, err
	}
	if o.footer, err = w.Close(p.position); err != nil {
		return nil, err
	}
	o.size, o.sha = sum.size, sum.sha.Sum(nil)
	return o, nil
}

// summed sums up what is written.
type summed struct {
	to   io.Writer
	sha  hash.Hash
	size int64
}

func (s *summed) Write(p []byte) (int, error) {
	n, err := s.to.Write(p)
	s.sha.Write(p[:n])
	s.size += int64(n)
	return n, err
}

// sortBy is the column that an object's rows are sorted by: the topic's, if the object's schema has it. Schemas come and go
// without the archive's leave, so an object is not refused for its order.
func (a *Archiver) sortBy(topic string, fs *fileSchemas) string {
	column := a.cfg.sortBy(topic)
	if column == "" {
		return ""
	}
	err := fs.schema.Sortable(column)
	if err == nil {
		return column
	}
	if _, said := a.unsorted.LoadOrStore(fmt.Sprintf("%s/%d", topic, fs.id), true); !said && fs.id != 0 {
		a.Log.Warn("objects are not sorted: their schema has not the column of archiver.sort_by; register a schema that has it, "+
			"or archive the topic below another prefix with another column", "topic", topic, "column", column, "schema_id", fs.id, "error", err)
	}
	return ""
}

// append writes one record, or says why it is a dead letter.
func (fs *fileSchemas) append(w *archive.Writer, rec *archive.Record, buf *[]byte) (reason string, err error) {
	row := *rec
	if rec.Value != nil {
		id, ok := schemaID(rec.Value)
		if !ok {
			return "the value is not in the registry's wire format", nil
		}
		if why, ok := fs.poison[id]; ok {
			return why, nil
		}
		payload := rec.Value[headerSize:]
		if id != fs.id {
			payload, err = fs.resolvers[id].Resolve((*buf)[:0], payload)
			if errors.Is(err, archive.ErrValue) {
				return err.Error(), nil
			}
			if err != nil {
				return "", err
			}
			*buf = payload
		}
		row.Value = payload
	}
	err = w.Append(&row)
	if errors.Is(err, archive.ErrValue) {
		return err.Error(), nil
	}
	return "", err
}

// chooseSchema takes the newest of the range's schemas and the last object's, so that a partition's schema only moves
// forward, and prepares the resolution of the others into it. The registry gives later schemas greater ids.
func (a *Archiver) chooseSchema(ctx context.Context, p *partition, ids map[int]bool) (*fileSchemas, error) {
	fs := &fileSchemas{id: p.schemaID, resolvers: map[int]*archive.Resolver{}, poison: map[int]string{}}
	compiled := map[int]*archive.Schema{}
	if p.schemaID != 0 {
		ids[p.schemaID] = true
	}
	for id := range ids {
		schema, err := a.schema(ctx, p.topic, id)
		var bad *poison
		switch {
		case errors.As(err, &bad):
			fs.poison[id] = bad.reason
			continue
		case err != nil:
			return nil, err
		}
		compiled[id] = schema
		fs.id = max(fs.id, id)
	}
	if fs.id == 0 {
		schema, err := archive.Compile(noSchema)
		fs.schema = schema
		return fs, err
	}
	if fs.schema = compiled[fs.id]; fs.schema == nil {
		return nil, &stop{fmt.Sprintf("schema %d of the partition's last object is not one of the topic's any more; restore it in the registry", fs.id)}
	}
	for id, schema := range compiled {
		if id == fs.id {
			continue
		}
		resolver, err := archive.NewResolver(schema, fs.schema)
		if err != nil {
			return nil, &stop{fmt.Sprintf("records of schema %d cannot be read as schema %d: %v; "+
				"set the subject's compatibility to BACKWARD_TRANSITIVE and register a schema that reads both", id, fs.id, err)}
		}
		fs.resolvers[id] = resolver
	}
	return fs, nil
}

// poison says why all records of a schema id are dead letters.
type poison struct{ reason string }

func (e *poison) Error() string { return e.reason }

// schema gives the compiled schema with an id. Schemas never change under their id, so the answer is kept.
func (a *Archiver) schema(ctx context.Context, topic string, id int) (*archive.Schema, error) {
	cacheKey := fmt.Sprintf("%s/%d", topic, id)
	if s, ok := a.compiled.Load(cacheKey); ok {
		return s.(*archive.Schema), nil
	}
	header := binary.BigEndian.AppendUint32([]byte{0}, uint32(id))
	_, parsed, _, err := a.codec.Writer(ctx, topic, header)
	switch {
	case codec.IsPoison(err), a.cfg.UnknownSchemaToDeadLetters && errors.Is(err, codec.ErrUnknownSchema):
		return nil, &poison{err.Error()}
	case errors.Is(err, codec.ErrUnknownSchema):
		return nil, fmt.Errorf("%w; register it again, or set archiver.unknown_schema_to_dead_letters", err)
	case err != nil:
		return nil, err
	}
	if err := fits(topic, parsed); err != nil {
		return nil, &poison{fmt.Sprintf("schema %d is not one of the topic's: %v", id, err)}
	}
	s, err := archive.Compile(parsed.String())
	if err != nil {
		return nil, &stop{fmt.Sprintf("schema %d: %v", id, err)}
	}
	a.compiled.Store(cacheKey, s)
	return s, nil
}

// fits tells a version of the topic's schema, older or newer than this program's, from another topic's.
func fits(topic string, s *avro.Schema) error {
	t, ok := schemas.Lookup(topic)
	if !ok || t.Schema == "" {
		return nil
	}
	own, err := avro.Parse(t.AvroSchema())
	if err != nil {
		return err
	}
	if _, err = avro.Resolve(own, s); err == nil {
		return nil
	}
	_, err = avro.Resolve(s, own)
	return err
}
