package load

import (
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/format"
)

// Parquet reads records from a Parquet file. Columns of groups are named a.b; dates become YYYY-MM-DD, timestamps RFC 3339 in
// UTC, decimals and numbers their digits; columns of lists and maps are left out, because no field can hold them.
type Parquet struct {
	m       Mapping
	file    *os.File
	groups  []parquet.RowGroup
	rows    parquet.Rows
	columns []parquetColumn // by index of the leaf
	buffer  []parquet.Row
	have    []parquet.Row // of the buffer, not yet returned
	line    int
}

type parquetColumn struct {
	name string // "" leaves it out
	text func(parquet.Value) (string, error)
}

// OpenParquet opens a file and checks the mapping against its schema; without a record id in the mapping it is the first
// column.
func OpenParquet(path string, m Mapping) (*Parquet, error) {
	file, f, err := openParquet(path)
	if err != nil {
		return nil, err
	}
	p := &Parquet{m: m, file: file, groups: f.RowGroups(), buffer: make([]parquet.Row, 64)}
	var names []string
	for _, path := range f.Schema().Columns() {
		leaf, ok := f.Schema().Lookup(path...)
		c := parquetColumn{}
		if ok && leaf.MaxRepetitionLevel == 0 {
			c = parquetColumn{name: strings.Join(path, "."), text: textOf(leaf.Node.Type())}
			names = append(names, c.name)
		}
		p.columns = append(p.columns, c)
	}
	if p.m.RecordID == "" && len(names) > 0 {
		p.m.RecordID = names[0]
	}
	for field, column := range p.m.needs() {
		if !slices.Contains(names, column) {
			_ = file.Close()
			return nil, fmt.Errorf("%s: the Parquet file has no column %q for %s; it has %s", path, column, field, strings.Join(names, ", "))
		}
	}
	return p, nil
}

func openParquet(path string) (*os.File, *parquet.File, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, nil, fmt.Errorf("reading Parquet: %w", err)
	}
	info, err := file.Stat()
	var f *parquet.File
	if err == nil {
		f, err = parquet.OpenFile(file, info.Size())
	}
	if err != nil {
		_ = file.Close()
		return nil, nil, fmt.Errorf("reading Parquet: %s: %w", path, err)
	}
	return file, f, nil
}

func countParquet(path string) (int, error) {
	file, f, err := openParquet(path)
	if err != nil {
		return 0, err
	}
	return int(f.NumRows()), file.Close()
}

// Close closes the file.
func (p *Parquet) Close() error {
	var err error
	if p.rows != nil {
		err = p.rows.Close()
	}
	return errors.Join(err, p.file.Close())
}

// Next returns the next row's record.
func (p *Parquet) Next() (Record, error) {
	for len(p.have) == 0 {
		if p.rows == nil {
			if len(p.groups) == 0 {
				return Record{}, io.EOF
			}
			p.rows, p.groups = p.groups[0].Rows(), p.groups[1:]
		}
		n, err := p.rows.ReadRows(p.buffer)
		p.have = p.buffer[:n]
		if err == nil && n == 0 {
			err = io.ErrNoProgress
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return Record{}, fmt.Errorf("reading Parquet: row %d: %w", p.line+1, err)
		}
		if n == 0 {
			if err := p.rows.Close(); err != nil {
				return Record{}, fmt.Errorf("reading Parquet: row %d: %w", p.line+1, err)
			}
			p.rows = nil
		}
	}
	row := p.have[0]
	p.have = p.have[1:]
	p.line++
	var failed error
	rec := p.m.record(p.line, func(yield func(column, text string)) {
		for _, v := range row {
			c := p.columns[v.Column()]
			if c.name == "" || v.IsNull() {
				continue
			}
			text, err := c.text(v)
			if err != nil {
				failed = fmt.Errorf("column %s %w", c.name, err)
				return
			}
			yield(c.name, text)
		}
	})
	if failed != nil {
		return Record{}, fmt.Errorf("reading Parquet: row %d: %w", p.line, failed)
	}
	return rec, nil
}

// textOf returns how values of a type are written as text.
func textOf(t parquet.Type) func(parquet.Value) (string, error) {
	if l := t.LogicalType(); l != nil {
		switch l := l.Value.(type) {
		case *format.DateType:
			return func(v parquet.Value) (string, error) {
				return time.Unix(int64(v.Int32())*86400, 0).UTC().Format(time.DateOnly), nil
			}
		case *format.TimestampType:
			return func(v parquet.Value) (string, error) {
				var at time.Time
				switch l.Unit.Value.(type) {
				case *format.MilliSeconds:
					at = time.UnixMilli(v.Int64())
				case *format.MicroSeconds:
					at = time.UnixMicro(v.Int64())
				default:
					at = time.Unix(0, v.Int64())
				}
				return at.UTC().Format(time.RFC3339Nano), nil
			}
		case *format.DecimalType:
			return func(v parquet.Value) (string, error) { return decimal(v, int(l.Scale)), nil }
		case *format.UUIDType:
			return func(v parquet.Value) (string, error) {
				id, err := uuid.FromBytes(v.ByteArray())
				return id.String(), err
			}
		case *format.IntType:
			if !l.IsSigned {
				return func(v parquet.Value) (string, error) {
					if v.Kind() == parquet.Int32 {
						return strconv.FormatUint(uint64(v.Uint32()), 10), nil
					}
					return strconv.FormatUint(v.Uint64(), 10), nil
				}
			}
		}
	}
	return func(v parquet.Value) (string, error) {
		switch v.Kind() {
		case parquet.Boolean:
			return strconv.FormatBool(v.Boolean()), nil
		case parquet.Int32:
			return strconv.Itoa(int(v.Int32())), nil
		case parquet.Int64:
			return strconv.FormatInt(v.Int64(), 10), nil
		case parquet.Float:
			return strconv.FormatFloat(float64(v.Float()), 'f', -1, 32), nil
		case parquet.Double:
			return strconv.FormatFloat(v.Double(), 'f', -1, 64), nil
		case parquet.ByteArray, parquet.FixedLenByteArray:
			if utf8.Valid(v.ByteArray()) {
				return string(v.ByteArray()), nil
			}
		}
		return "", errors.New("holds what is no text")
	}
}

// decimal writes an unscaled value with its scale.
func decimal(v parquet.Value, scale int) string {
	n := new(big.Int)
	switch v.Kind() {
	case parquet.Int32:
		n.SetInt64(int64(v.Int32()))
	case parquet.Int64:
		n.SetInt64(v.Int64())
	default: // two's complement, big endian
		b := v.ByteArray()
		n.SetBytes(b)
		if len(b) > 0 && b[0]&0x80 != 0 {
			n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(8*len(b))))
		}
	}
	sign := ""
	if n.Sign() < 0 {
		sign = "-"
		n.Abs(n)
	}
	digits := n.String()
	if scale <= 0 {
		return sign + digits + strings.Repeat("0", -scale)
	}
	digits = strings.Repeat("0", max(0, scale+1-len(digits))) + digits
	return sign + digits[:len(digits)-scale] + "." + digits[len(digits)-scale:]
}
