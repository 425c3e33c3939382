package load

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// Mapping says what a CSV file's columns are.
type Mapping struct {
	// Account that the records belong to.
	Account string
	// RecordID is the column of the customer's own id.
	RecordID string
	// Fields maps a field of the record to the column it comes from. Columns that are not named are taken under their
	// own names.
	Fields map[string]string
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

// CSV reads records from a CSV file with a header line.
type CSV struct {
	m       Mapping
	r       *csv.Reader
	columns []string // the record's field of each column; "" leaves it out
	id      int
	line    int
}

// NewCSV reads the header and checks the mapping against it.
func NewCSV(in io.Reader, m Mapping) (*CSV, error) {
	r := csv.NewReader(in)
	r.TrimLeadingSpace = true
	r.ReuseRecord = true
	header, err := r.Read()
	if err != nil {
		return nil, fmt.Errorf("reading the CSV header: %w", err)
	}
	c := &CSV{m: m, r: r, line: 1, id: -1, columns: make([]string, len(header))}
	names := make([]string, len(header))
	for i, h := range header {
		names[i] = strings.TrimSpace(strings.TrimPrefix(h, "\ufeff"))
		c.columns[i] = names[i]
		if names[i] == m.RecordID {
			c.id, c.columns[i] = i, ""
		}
	}
	if c.id < 0 {
		return nil, fmt.Errorf("the CSV file has no column %q for the record id; it has %s", m.RecordID, strings.Join(names, ", "))
	}
	for field, column := range m.Fields {
		i := slices.Index(names, column)
		if i < 0 {
			return nil, fmt.Errorf("the CSV file has no column %q for field %s; it has %s", column, field, strings.Join(names, ", "))
		}
		c.columns[i] = field
	}
	return c, nil
}

// OpenCSV reads a file, whole: a customer list is small beside what it becomes. Without a record id in the mapping the
// first column is taken for it.
func OpenCSV(path string, m Mapping) (*CSV, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading CSV: %w", err)
	}
	if m.RecordID == "" {
		line, _, _ := strings.Cut(string(b), "\n")
		m.RecordID, _, _ = strings.Cut(line, ",")
		m.RecordID = strings.TrimSpace(m.RecordID)
	}
	c, err := NewCSV(bytes.NewReader(b), m)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

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
	var rec Record
	rec.Account = c.m.Account
	rec.RecordID = strings.TrimSpace(row[c.id])
	rec.RequestID = fmt.Sprintf("%s/%d", c.m.Run, c.line)
	rec.Fields = map[string]string{}
	for i, cell := range row {
		if cell = strings.TrimSpace(cell); cell != "" && c.columns[i] != "" {
			rec.Fields[c.columns[i]] = cell
		}
	}
	return rec, nil
}
