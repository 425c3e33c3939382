package load

import (
	"fmt"
	"io"
	"strings"
)

// Formats of files.
const (
	FormatCSV     = "csv"     // with a header line
	FormatNDJSON  = "ndjson"  // a JSON object a line
	FormatParquet = "parquet" // flat columns
)

// A File is a source that knows how far it is, and must be closed.
type File interface {
	Source
	io.Closer
}

// Open reads a file of one of the formats. The request id of a record is the name of the run and the line, or the row, from 1.
func Open(format, path string, m Mapping) (File, error) {
	switch format {
	case FormatCSV:
		return OpenCSV(path, m)
	case FormatNDJSON:
		return OpenNDJSON(path, m)
	case FormatParquet:
		return OpenParquet(path, m)
	}
	return nil, fmt.Errorf("reading %s: format %q is none of csv, ndjson and parquet", path, format)
}

// Count returns how many records a file has.
func Count(format, path string) (int, error) {
	if format == FormatParquet {
		return countParquet(path)
	}
	// Without a mapping every first column will do: an NDJSON line needs none.
	source, err := Open(format, path, Mapping{})
	if err != nil {
		return 0, err
	}
	defer func() { _ = source.Close() }()
	for n := 0; ; n++ {
		switch _, err := source.Next(); err {
		case nil:
		case io.EOF:
			return n, nil
		default:
			return 0, err
		}
	}
}

// fieldsOf lists the fields that a column is mapped to, or the column's own name where it is mapped to none.
func (m Mapping) fieldsOf(column string) (fields []string) {
	for field, from := range m.Fields {
		if from == column {
			fields = append(fields, field)
		}
	}
	if fields == nil && column != m.RecordID {
		fields = []string{column}
	}
	return fields
}

// record makes a record of a line's cells; an empty cell is no field.
func (m Mapping) record(line int, cells func(yield func(column, text string))) Record {
	var rec Record
	rec.Account, rec.RequestID, rec.Fields = m.Account, fmt.Sprintf("%s/%d", m.Run, line), map[string]string{}
	cells(func(column, text string) {
		if text = strings.TrimSpace(text); text == "" {
			return
		}
		if column == m.RecordID {
			rec.RecordID = text
		}
		for _, field := range m.fieldsOf(column) {
			rec.Fields[field] = text
		}
	})
	if m.Composites != "" {
		rec.Fields["composites"] = m.Composites
	}
	return rec
}
