package load

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
)

// maxLine bounds a line, in bytes.
const maxLine = 16 << 20

// NDJSON reads records from a file with a JSON object a line. The members of nested objects are columns named a.b; null is
// no field; numbers keep their digits; lists are refused, because no field can hold them.
type NDJSON struct {
	m     Mapping
	file  io.Closer
	lines *bufio.Scanner
	line  int
}

// NewNDJSON reads from in; without a record id in the mapping it is taken from record_id.
func NewNDJSON(in io.Reader, m Mapping) *NDJSON {
	if m.RecordID == "" {
		m.RecordID = "record_id"
	}
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 64<<10), maxLine)
	return &NDJSON{m: m, lines: lines}
}

// OpenNDJSON opens a file.
func OpenNDJSON(path string, m Mapping) (*NDJSON, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading NDJSON: %w", err)
	}
	n := NewNDJSON(f, m)
	n.file = f
	return n, nil
}

// Close closes the file.
func (n *NDJSON) Close() error { return n.file.Close() }

// Next returns the next line's record; empty lines are skipped.
func (n *NDJSON) Next() (Record, error) {
	for n.lines.Scan() {
		n.line++
		b := bytes.TrimSpace(n.lines.Bytes())
		if n.line == 1 {
			b = bytes.TrimPrefix(b, []byte("\ufeff"))
		}
		if len(b) == 0 {
			continue
		}
		dec := json.NewDecoder(bytes.NewReader(b))
		dec.UseNumber()
		var object map[string]any
		if err := dec.Decode(&object); err != nil || object == nil {
			return Record{}, fmt.Errorf("reading NDJSON: line %d is no JSON object", n.line)
		}
		if _, err := dec.Token(); err != io.EOF {
			return Record{}, fmt.Errorf("reading NDJSON: line %d has something behind its object", n.line)
		}
		var failed error
		rec := n.m.record(n.line, func(yield func(column, text string)) { failed = flatten("", object, yield) })
		if failed != nil {
			return Record{}, fmt.Errorf("reading NDJSON: line %d: %w", n.line, failed)
		}
		return rec, nil
	}
	if err := n.lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		return Record{}, fmt.Errorf("reading NDJSON: line %d is longer than %d bytes", n.line+1, maxLine)
	} else if err != nil {
		return Record{}, fmt.Errorf("reading NDJSON: %w", err)
	}
	return Record{}, io.EOF
}

// flatten yields the scalar members of an object.
func flatten(prefix string, object map[string]any, yield func(column, text string)) error {
	for name, v := range object {
		switch v := v.(type) {
		case nil:
		case string:
			yield(prefix+name, v)
		case json.Number:
			yield(prefix+name, v.String())
		case bool:
			yield(prefix+name, strconv.FormatBool(v))
		case map[string]any:
			if err := flatten(prefix+name+".", v, yield); err != nil {
				return err
			}
		default:
			return fmt.Errorf("column %s holds a list, which no field can", prefix+name)
		}
	}
	return nil
}
