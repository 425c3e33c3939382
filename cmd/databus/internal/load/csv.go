package load

import (
	"bufio"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// Mapping says what a file's columns are.
type Mapping struct {
	// Account that the records belong to.
	Account string
	// RecordID is the column of the customer's own id.
	RecordID string
	// Fields maps a field of the record to the column it comes from. Columns that are not named are taken under their
	// own names.
	Fields map[string]string
	// Composites are the composite identifiers that each record names, see graph.PersonComposites; empty: none, or those of a
	// column of that name.
	Composites string
	// Run names the load: request ids are made of it and the line, so that the same run sent again is a repeat.
	Run string
}

// ParseFields reads FIELD=COLUMN pairs.
func ParseFields(pairs []string) (map[string]string, error) {
	m := map[string]string{}
	for _, p := range pairs {
		field, column, ok := strings.Cut(p, "=")
		if !ok || field == "" || column == "" {
			return nil, fmt.Errorf("mapping %q: write FIELD=COLUMN, such as birth_date=date_of_birth", p)
		}
		m[field] = column
	}
	return m, nil
}

// needs lists the columns that a file must have, by what for.
func (m Mapping) needs() map[string]string {
	all := map[string]string{"the record id": m.RecordID}
	for field, column := range m.Fields {
		all["field "+field] = column
	}
	return all
}

// CSV reads records from a CSV file with a header line.
type CSV struct {
	m     Mapping
	file  io.Closer
	r     *csv.Reader
	names []string
	line  int
}

// NewCSV reads the header and checks the mapping against it. Without a record id in the mapping the first column is taken
// for it.
func NewCSV(in io.Reader, m Mapping) (*CSV, error) {
	r := csv.NewReader(in)
	r.TrimLeadingSpace = true
	r.ReuseRecord = true
	header, err := r.Read()
	if err != nil {
		return nil, fmt.Errorf("reading the CSV header: %w", err)
	}
	c := &CSV{m: m, r: r, line: 1, names: make([]string, len(header))}
	for i, h := range header {
		c.names[i] = strings.TrimSpace(strings.TrimPrefix(h, "\ufeff"))
	}
	if c.m.RecordID == "" {
		c.m.RecordID = c.names[0]
	}
	for what, column := range c.m.needs() {
		if !slices.Contains(c.names, column) {
			return nil, fmt.Errorf("the CSV file has no column %q for %s; it has %s", column, what, strings.Join(c.names, ", "))
		}
	}
	return c, nil
}

// OpenCSV opens a file.
func OpenCSV(path string, m Mapping) (*CSV, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading CSV: %w", err)
	}
	c, err := NewCSV(bufio.NewReaderSize(f, 1<<16), m)
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	c.file = f
	return c, nil
}

// Close closes the file.
func (c *CSV) Close() error { return c.file.Close() }

// Next returns the next row; an empty cell is no field.
func (c *CSV) Next() (Record, error) {
	row, err := c.r.Read()
	if err != nil {
		if errors.Is(err, io.EOF) {
			return Record{}, io.EOF
		}
		return Record{}, fmt.Errorf("reading CSV: %w", err)
	}
	c.line++
	return c.m.record(c.line, func(yield func(column, text string)) {
		for i, cell := range row {
			yield(c.names[i], cell)
		}
	}), nil
}
