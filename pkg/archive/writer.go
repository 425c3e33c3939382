package archive

import (
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/compress/zstd"
)

// Settings that decide the bytes of an object: changing one takes a new EncoderVersion.
const (
	// rowGroupBytes is the size of the records, uncompressed, at which a row group ends.
	rowGroupBytes  = 32 << 20
	pageBytes      = 256 << 10
	dictionaryMax  = 1 << 20
	sampleRows     = 4096 // of the first batch, which decides about dictionaries
	sampleLeast    = 256  // values of a column that say anything about the others
	batchRows      = 512
	batchBytes     = 1 << 20
	recordOverhead = 32
	filterBits     = 10   // per key: one lookup in a hundred is in vain
	sortedPageRows = 4096 // of the column that rows are sorted by: readers that look for a value of it skip such pages of rows
)

// Range names what a Writer is to write: the range begins at First and ends where Close says.
type Range struct {
	Topic     string
	Partition int32
	First     int64
	SchemaID  int
	// KeyFilter adds a bloom filter of the keys to each row group: see Layout.
	KeyFilter bool
	// SortBy names the column by which the rows of a row group are sorted, one that is Sortable; empty is _offset.
	SortBy string
}

// Writer writes one object: Append and DeadLetter in the order of the offsets, then Close.
type Writer struct {
	schema    *Schema
	footer    Footer
	to        io.Writer
	keyFilter bool
	partition parquet.Value
	out       *parquet.GenericWriter[any] // nil before the first batch is flushed
	columns   []*parquet.ColumnWriter

	batch   rows
	marks   []int
	arena   []byte
	pending int // rows in batch
	group   int // bytes in the current row group
	last    int64
	failed  error

	order  *order // nil: rows are written as they come
	sorter sorter // the current row group's records; only with an order
	page   int    // rows in the current page of the order's column
}

// NewWriter begins an object. A Writer is used once: the library's own Reset writes files that other readers refuse.
func NewWriter(to io.Writer, schema *Schema, r Range) (*Writer, error) {
	if err := CheckTopic(r.Topic); err != nil {
		return nil, fmt.Errorf("writing archive object: %w", err)
	}
	if r.Partition < 0 || r.First < 0 {
		return nil, fmt.Errorf("writing archive object: partition %d, first offset %d", r.Partition, r.First)
	}
	var by *order
	if r.SortBy != "" {
		var err error
		if by, err = schema.order(r.SortBy); err != nil {
			return nil, fmt.Errorf("writing archive object: %w", err)
		}
	}
	leaves := metaLeaves + len(schema.leaves)
	return &Writer{
		schema: schema, to: to, keyFilter: r.KeyFilter, last: r.First - 1, order: by,
		batch: rows{columns: make([][]parquet.Value, leaves)}, marks: make([]int, leaves),
		partition: parquet.Int32Value(r.Partition).Level(0, 0, leafPartition),
		footer: Footer{
			Topic: r.Topic, Partition: r.Partition, First: r.First, Schema: schema.text, SchemaID: r.SchemaID,
			EncoderVersion: EncoderVersion, SortedBy: r.SortBy,
		},
	}, nil
}

// open begins the file, once the first batch shows which strings are worth a dictionary.
func (w *Writer) open() error {
	var filters []parquet.BloomFilterColumn
	if w.keyFilter {
		filters = append(filters, parquet.SplitBlockFilter(filterBits, metaColumns[leafKey]))
	}
	var sorted []parquet.SortingColumn
	if w.order != nil {
		sorted = append(sorted, w.order.sortingColumn())
	}
	w.out = parquet.NewGenericWriter[any](w.to, w.schema.parquetSchema(w.unique()),
		parquet.SortingWriterConfig(parquet.SortingColumns(sorted...)),
		parquet.BloomFilters(filters...),
		parquet.CreatedBy("databus-archive", "3", "3"),
		parquet.Compression(&zstd.Codec{Level: zstd.SpeedFastest, Concurrency: 1}),
		parquet.DataPageStatistics(false), // the column index has them
		parquet.PageBufferSize(pageBytes),
		parquet.DictionaryMaxBytes(dictionaryMax),
		// A column index with whole payloads as bounds would hold much of the file twice.
		parquet.ColumnIndexSizeLimit(func([]string) int { return 32 }),
	)
	if w.columns = w.out.ColumnWriters(); len(w.columns) != len(w.batch.columns) {
		return fmt.Errorf("writing archive object: %d columns for %d leaves", len(w.columns), len(w.batch.columns))
	}
	return nil
}

// unique finds the string columns in which the first batch has hardly a value twice: ids. A dictionary of them would
// outgrow its bound, after every one of them has been looked up in it.
func (w *Writer) unique() map[int]bool {
	found := map[int]bool{}
	for _, leaf := range w.schema.leaves {
		if leaf.kind != kindString {
			continue
		}
		n, seen := 0, make(map[string]struct{}, len(w.batch.columns[leaf.lo]))
		for _, v := range w.batch.columns[leaf.lo] {
			if !v.IsNull() {
				n++
				seen[string(v.ByteArray())] = struct{}{}
			}
		}
		found[leaf.lo] = n >= sampleLeast && (n-len(seen))*100 <= n
	}
	return found
}

// Values that most rows have.
var (
	noHeaderKey   = parquet.NullValue().Level(0, 0, leafHeaderKey)
	noHeaderValue = parquet.NullValue().Level(0, 0, leafHeaderValue)
	tombstone     = parquet.BooleanValue(true).Level(0, 0, leafTombstone)
	noTombstone   = parquet.BooleanValue(false).Level(0, 0, leafTombstone)
)

// Append writes a record. With ErrValue the record is not in the object and the Writer as it was before: the caller
// counts it with DeadLetter. The record's memory may be used again when Append returns.
func (w *Writer) Append(r *Record) error {
	if err := w.next(r.Offset); err != nil {
		return err
	}
	var err error
	if w.order == nil {
		err = w.append(r)
	} else {
		err = w.hold(r)
	}
	if err != nil {
		return fmt.Errorf("archiving offset %d: %w", r.Offset, err)
	}
	w.last = r.Offset
	if w.footer.Rows == 0 {
		w.footer.MinTimestamp, w.footer.MaxTimestamp = r.Timestamp, r.Timestamp
	}
	w.footer.MinTimestamp = min(w.footer.MinTimestamp, r.Timestamp)
	w.footer.MaxTimestamp = max(w.footer.MaxTimestamp, r.Timestamp)
	w.footer.Rows++
	w.group += r.size()
	if w.order == nil {
		w.failed = w.flushFull()
	}
	if w.failed == nil && w.group >= rowGroupBytes {
		w.failed = w.endGroup()
	}
	return w.failed
}

// flushFull writes the batch when it is large enough.
func (w *Writer) flushFull() error {
	enough := batchRows
	if w.out == nil {
		enough = sampleRows
	}
	if w.pending >= enough || len(w.arena) >= batchBytes {
		return w.flushBatch()
	}
	return nil
}

// endGroup writes what is left of the row group, and ends it.
func (w *Writer) endGroup() error {
	w.group = 0
	if err := w.flushGroup(); err != nil {
		return err
	}
	if err := w.out.Flush(); err != nil {
		return fmt.Errorf("writing row group: %w", err)
	}
	return nil
}

// flushGroup writes what is held or in the batch.
func (w *Writer) flushGroup() error {
	if w.order != nil {
		if err := w.release(); err != nil {
			return err
		}
	}
	err := w.flushBatch()
	w.page = 0
	return err
}

// DeadLetter counts a record of the range that is not in the object.
func (w *Writer) DeadLetter(offset int64) error {
	if err := w.next(offset); err != nil {
		return err
	}
	w.last = offset
	w.footer.DeadLetters++
	return nil
}

// Close ends the object, whose range ends before next, and returns its footer.
func (w *Writer) Close(next int64) (Footer, error) {
	if w.failed != nil {
		return Footer{}, w.failed
	}
	w.footer.Next = next
	if next <= w.last {
		return Footer{}, fmt.Errorf("closing archive object: the range ends at %d, its last record is %d", next, w.last)
	}
	if err := w.footer.check(); err != nil {
		return Footer{}, fmt.Errorf("closing archive object: %w", err)
	}
	if w.failed = w.flushGroup(); w.failed != nil {
		return Footer{}, w.failed
	}
	for _, pair := range w.footer.metadata() {
		w.out.SetKeyValueMetadata(pair[0], pair[1])
	}
	w.failed = errors.New("the archive object is closed")
	if err := w.out.Close(); err != nil {
		return Footer{}, fmt.Errorf("closing archive object: %w", err)
	}
	return w.footer, nil
}

func (w *Writer) next(offset int64) error {
	if w.failed != nil {
		return w.failed
	}
	if offset <= w.last {
		return fmt.Errorf("archiving offset %d: it does not follow %d", offset, w.last)
	}
	return nil
}

func (w *Writer) append(r *Record) (err error) {
	for i, column := range w.batch.columns {
		w.marks[i] = len(column)
	}
	arena := len(w.arena)
	defer func() {
		if err == nil {
			w.pending++
		} else {
			w.arena = w.arena[:arena]
			for i := range w.batch.columns {
				w.batch.columns[i] = w.batch.columns[i][:w.marks[i]]
			}
		}
	}()
	if err := checkHeaders(r); err != nil {
		return err
	}
	w.batch.put(leafPartition, w.partition)
	w.putLong(leafOffset, r.Offset)
	w.putLong(leafTimestamp, r.Timestamp)
	w.putBytes(leafKey, r.Key, 0, 1)
	if len(r.Headers) == 0 {
		w.batch.put(leafHeaderKey, noHeaderKey)
		w.batch.put(leafHeaderValue, noHeaderValue)
	}
	for i, h := range r.Headers {
		rep := min(i, 1)
		w.batch.put(leafHeaderKey, parquet.ByteArrayValue(w.keep([]byte(h.Key))).Level(rep, 1, leafHeaderKey))
		w.putBytes(leafHeaderValue, h.Value, rep, 2)
	}
	if r.Value == nil {
		w.batch.put(leafTombstone, tombstone)
		w.schema.root.writeNull(&w.batch, 0, 0)
		return nil
	}
	w.batch.put(leafTombstone, noTombstone)
	return w.schema.write(&w.batch, w.keep(r.Value))
}

func checkHeaders(r *Record) error {
	for i, h := range r.Headers {
		if !utf8.ValidString(h.Key) {
			return fmt.Errorf("%w: the name of header %d is not UTF-8", ErrValue, i)
		}
	}
	return nil
}

// hold checks a record as append does, and keeps it until its row group is full.
func (w *Writer) hold(r *Record) error {
	if err := checkHeaders(r); err != nil {
		return err
	}
	place := w.sorter.keep(r)
	var kept Record
	w.sorter.read(place, &kept)
	found := rows{leaf: w.order.leaf}
	if kept.Value != nil {
		if err := w.schema.write(&found, kept.Value); err != nil {
			w.sorter.forget(place)
			return err
		}
	}
	place.key = found.value
	switch {
	case w.order.leaf == leafKey && kept.Key != nil:
		place.key = parquet.ByteArrayValue(kept.Key)
	case w.order.leaf == leafTimestamp:
		place.key = parquet.Int64Value(kept.Timestamp)
	}
	w.sorter.add(place)
	return nil
}

// release writes the held records in their order.
func (w *Writer) release() error {
	w.sorter.sort(w.order.compare)
	var r Record
	for _, place := range w.sorter.rows {
		w.sorter.read(place, &r)
		if err := w.append(&r); err != nil {
			return fmt.Errorf("sorting offset %d: %v", r.Offset, err) // no ErrValue: hold has checked the record
		}
		if err := w.flushFull(); err != nil {
			return err
		}
	}
	w.sorter.reset()
	return nil
}

func (w *Writer) putLong(leaf int, n int64) {
	v := w.batch.next(leaf)
	*v = parquet.Int64Value(n)
	setLevels(v, 0, 0, leaf)
}

// putBytes writes bytes, or null one definition level lower.
func (w *Writer) putBytes(leaf int, b []byte, rep, def int) {
	v := w.batch.next(leaf)
	if b == nil {
		*v = parquet.NullValue()
		def--
	} else {
		*v = parquet.ByteArrayValue(w.keep(b))
	}
	setLevels(v, rep, def, leaf)
}

// keep copies b to where it stays until the batch is flushed: an arena that grows leaves its older slices valid.
func (w *Writer) keep(b []byte) []byte {
	start := len(w.arena)
	w.arena = append(w.arena, b...)
	return w.arena[start:len(w.arena):len(w.arena)]
}

func (w *Writer) flushBatch() error {
	if w.out == nil {
		if err := w.open(); err != nil {
			return err
		}
	}
	for i, values := range w.batch.columns {
		if len(values) == 0 {
			continue
		}
		if _, err := w.columns[i].WriteRowValues(values); err != nil {
			return fmt.Errorf("writing column %d: %w", i, err)
		}
		clear(values)
		w.batch.columns[i] = values[:0]
	}
	if w.order != nil {
		if w.page += w.pending; w.page >= sortedPageRows {
			w.page = 0
			if err := w.columns[w.order.leaf].Flush(); err != nil {
				return fmt.Errorf("writing a page of column %s: %w", w.order.column, err)
			}
		}
	}
	w.pending, w.arena = 0, w.arena[:0]
	if cap(w.arena) > 4*batchBytes { // one huge record must not stay for the rest of the file
		w.arena = nil
	}
	return nil
}

func (r *Record) size() int {
	n := recordOverhead + len(r.Key) + len(r.Value)
	for _, h := range r.Headers {
		n += len(h.Key) + len(h.Value)
	}
	return n
}
