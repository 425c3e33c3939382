package identity

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
)

// Type is a CQL type.
type Type string

// The types that the tables use, and the forms of their values in bytes.
const (
	Text    Type = "text"    // UTF-8
	Blob    Type = "blob"    // as it is
	UUID    Type = "uuid"    // 16 bytes
	Bigint  Type = "bigint"  // 8 bytes, big endian
	Boolean Type = "boolean" // 1 byte, 0 or 1
)

// Marshal is Cassandra's class of the type, as SSTables name it.
func (t Type) Marshal() string {
	return "org.apache.cassandra.db.marshal." + map[Type]string{
		Text: "UTF8Type", Blob: "BytesType", UUID: "UUIDType", Bigint: "LongType", Boolean: "BooleanType",
	}[t]
}

// Column is a column of a table and how it is read from and written to a Row.
type Column struct {
	Name string
	Type Type

	value func(*Row) []byte
	set   func(*Row, []byte) error
}

// Value is the column's value of a row in CQL's binary form; nil is null.
func (c Column) Value(r *Row) []byte { return c.value(r) }

// Table is a look-up table as data. The Cassandra store, the embedded store and the SSTable writer work from it.
type Table struct {
	Name string
	// Partition and Clustering name the key's columns, in order.
	Partition, Clustering []string
	// Columns, those of the key first.
	Columns []Column

	// place is the part of a row's place that this table's key holds; nil for records_by_key.
	place func(Place) string
}

func textColumn(name string, field func(*Row) *string) Column {
	return Column{Name: name, Type: Text,
		value: func(r *Row) []byte { return nonEmpty([]byte(*field(r))) },
		set:   func(r *Row, b []byte) error { *field(r) = string(b); return nil },
	}
}

func blobColumn(name string, field func(*Row) *[]byte) Column {
	return Column{Name: name, Type: Blob,
		value: func(r *Row) []byte { return nonEmpty(*field(r)) },
		set:   func(r *Row, b []byte) error { *field(r) = nonEmpty(slices.Clone(b)); return nil },
	}
}

// hexColumn is 16 bytes in the table and 32 hex digits in the Row.
func hexColumn(name string, field func(*Row) *string) Column {
	return Column{Name: name, Type: Blob,
		value: func(r *Row) []byte { return nonEmpty(unhex(*field(r))) },
		set:   func(r *Row, b []byte) error { *field(r) = hex.EncodeToString(b); return nil },
	}
}

func nonEmpty(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return b
}

var (
	columnAccount   = textColumn("account", func(r *Row) *string { return &r.Account })
	columnRecordKey = hexColumn("record_key", func(r *Row) *string { return &r.RecordKey })
	columnFCID      = hexColumn("fcid", func(r *Row) *string { return &r.FCID })
	columnPersonID  = Column{Name: "person_id", Type: UUID,
		value: func(r *Row) []byte {
			id, err := uuid.Parse(r.PersonID)
			if err != nil {
				return nil
			}
			return id[:]
		},
		set: func(r *Row, b []byte) error {
			if b == nil {
				r.PersonID = ""
				return nil
			}
			id, err := uuid.FromBytes(b)
			r.PersonID = id.String()
			return err
		}}
	columnVersion = Column{Name: "version", Type: Bigint,
		value: func(r *Row) []byte { return binary.BigEndian.AppendUint64(nil, uint64(r.Version)) },
		set: func(r *Row, b []byte) error {
			if len(b) != 8 {
				return fmt.Errorf("a version has %d bytes", len(b))
			}
			r.Version = int64(binary.BigEndian.Uint64(b))
			return nil
		}}
	columnDeleted = Column{Name: "deleted", Type: Boolean,
		value: func(r *Row) []byte {
			if r.Deleted {
				return []byte{1}
			}
			return []byte{0}
		},
		set: func(r *Row, b []byte) error { r.Deleted = len(b) == 1 && b[0] != 0; return nil }}
	columnKeyID  = textColumn("key_id", func(r *Row) *string { return &r.KeyID })
	columnSchema = blobColumn("payload_schema", func(r *Row) *[]byte { return &r.PayloadSchema })
	columnSealed = blobColumn("sealed", func(r *Row) *[]byte { return &r.Sealed })
	columnRecent = Column{Name: "recent", Type: Blob,
		value: func(r *Row) []byte { return r.Recent.Bytes() },
		set: func(r *Row, b []byte) (err error) {
			r.Recent, err = ParseRecent(b)
			return err
		}}
)

// The three tables. Each holds the sealed payload, so that every look-up is one read.
var (
	ByKey = Table{Name: "records_by_key", Partition: []string{"account", "record_key"},
		Columns: []Column{columnAccount, columnRecordKey, columnDeleted, columnFCID, columnPersonID, columnVersion, columnKeyID, columnSchema, columnSealed, columnRecent}}
	ByPerson = Table{Name: "records_by_person", Partition: []string{"account", "person_id"}, Clustering: []string{"record_key"},
		Columns: []Column{columnAccount, columnPersonID, columnRecordKey, columnFCID, columnVersion, columnKeyID, columnSchema, columnSealed},
		place:   func(p Place) string { return p.PersonID }}
	ByFCID = Table{Name: "records_by_fcid", Partition: []string{"fcid"}, Clustering: []string{"account", "record_key"},
		Columns: []Column{columnFCID, columnAccount, columnRecordKey, columnPersonID, columnVersion, columnKeyID, columnSchema, columnSealed},
		place:   func(p Place) string { return p.FCID }}
)

// Tables lists the three tables, the one by key last: its row is written last and says that the others are there.
func Tables() []Table { return []Table{ByPerson, ByFCID, ByKey} }

// Key lists the key's columns.
func (t Table) Key() []Column { return t.Columns[:len(t.Partition)+len(t.Clustering)] }

// Holds says whether a row stands in the table: all do by key, those that are not deleted in the others.
func (t Table) Holds(r *Row) bool { return t.place == nil || !r.Deleted }

// CreateCQL is the statement that creates the table.
func (t Table) CreateCQL(keyspace string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "CREATE TABLE IF NOT EXISTS %s.%s (", keyspace, t.Name)
	for _, c := range t.Columns {
		fmt.Fprintf(&b, "%s %s, ", c.Name, c.Type)
	}
	fmt.Fprintf(&b, "PRIMARY KEY ((%s)", strings.Join(t.Partition, ", "))
	for _, c := range t.Clustering {
		b.WriteString(", " + c)
	}
	b.WriteString("))")
	return b.String()
}

func (t Table) names(columns []Column, format string) []string {
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = fmt.Sprintf(format, c.Name)
	}
	return names
}

// InsertCQL writes a whole row; parameters are the columns in order, then the version as write timestamp.
func (t Table) InsertCQL(keyspace string) string {
	return fmt.Sprintf("INSERT INTO %s.%s (%s) VALUES (%s) USING TIMESTAMP ?", keyspace, t.Name,
		strings.Join(t.names(t.Columns, "%s"), ", "), strings.TrimSuffix(strings.Repeat("?, ", len(t.Columns)), ", "))
}

// DeleteCQL removes a row; parameters are the write timestamp, then the key's columns.
func (t Table) DeleteCQL(keyspace string) string {
	return fmt.Sprintf("DELETE FROM %s.%s USING TIMESTAMP ? WHERE %s", keyspace, t.Name, strings.Join(t.names(t.Key(), "%s = ?"), " AND "))
}

// SelectCQL reads whole rows; where is a condition with its own parameters.
func (t Table) SelectCQL(keyspace, where string) string {
	return fmt.Sprintf("SELECT %s FROM %s.%s WHERE %s", strings.Join(t.names(t.Columns, "%s"), ", "), keyspace, t.Name, where)
}

// row makes a Row from the values of all columns and checks it.
func (t Table) row(values [][]byte) (Row, error) {
	var r Row
	for i, c := range t.Columns {
		if err := c.set(&r, values[i]); err != nil {
			return Row{}, fmt.Errorf("reading %s of %s: %w: %w", c.Name, t.Name, ErrBadRow, err)
		}
	}
	if err := r.check(); err != nil {
		return Row{}, fmt.Errorf("reading %s: %w", t.Name, err)
	}
	return r, nil
}
