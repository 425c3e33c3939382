package archive

import (
	"fmt"
	"strings"

	"github.com/parquet-go/parquet-go/format"
)

// Engines that DDL writes for.
const (
	Athena = "athena"
	DuckDB = "duckdb"
	Spark  = "spark"
)

// Table is an archived topic as a table of a query engine.
type Table struct {
	// Name of the table, quoted by DDL; it may hold any characters but quotes.
	Name string
	// Location is the URL or directory that holds the topic's dt=... folders, without a slash at the end.
	Location string
	// Schema is the newest of the topic's objects: older ones lack columns, which read as null.
	Schema *Schema
	// From is the first day, YYYY-MM-DD, for engines that enumerate folders instead of listing them. Until is the last one,
	// empty for today.
	From, Until string
}

// DDL writes the statements that make an engine read the table's objects in place. Folders are found by their names: no
// crawler and no loading of partitions is needed, except that Spark must be told of new ones.
func DDL(engine string, t Table) (string, error) {
	if strings.ContainsAny(t.Name+t.Location, "`\"'\n") || t.Name == "" || t.Location == "" {
		return "", fmt.Errorf("writing DDL: %q at %q: a name and a location without quotes are needed", t.Name, t.Location)
	}
	switch engine {
	case DuckDB:
		return duckDB(t), nil
	case Athena:
		return athena(t)
	case Spark:
		return spark(t)
	}
	return "", fmt.Errorf("writing DDL: engine %q is unknown; known are athena, duckdb and spark", engine)
}

// duckDB reads types from the files; by name, so that objects of older schemas lack columns without harm.
func duckDB(t Table) string {
	return fmt.Sprintf(`CREATE OR REPLACE VIEW "%s" AS
SELECT * FROM read_parquet('%s/dt=*/hr=*/*.parquet',
  hive_partitioning = true, hive_types = {'dt': DATE, 'hr': VARCHAR}, union_by_name = true);
`, t.Name, t.Location)
}

func athena(t Table) (string, error) {
	columns, err := hiveColumns(t.Schema, athenaTypes)
	if err != nil {
		return "", err
	}
	until := "NOW+1DAY" // days begin earlier somewhere
	if t.Until != "" {
		until = t.Until
	}
	var b strings.Builder
	fmt.Fprintf(&b, "CREATE EXTERNAL TABLE IF NOT EXISTS `%s` (\n%s\n)\nPARTITIONED BY (`dt` string, `hr` string)\nSTORED AS PARQUET\nLOCATION '%s/'\nTBLPROPERTIES (\n",
		t.Name, columns, t.Location)
	properties := [][2]string{
		{"parquet.compression", "ZSTD"},
		{"projection.enabled", "true"},
		{"projection.dt.type", "date"}, {"projection.dt.format", "yyyy-MM-dd"}, {"projection.dt.range", t.From + "," + until},
		{"projection.dt.interval", "1"}, {"projection.dt.interval.unit", "DAYS"},
		{"projection.hr.type", "integer"}, {"projection.hr.range", "0,23"}, {"projection.hr.digits", "2"},
		{"storage.location.template", t.Location + "/dt=${dt}/hr=${hr}/"},
	}
	for i, p := range properties {
		comma := ","
		if i == len(properties)-1 {
			comma = ""
		}
		fmt.Fprintf(&b, "  '%s' = '%s'%s\n", p[0], p[1], comma)
	}
	b.WriteString(");\n")
	return b.String(), nil
}

func spark(t Table) (string, error) {
	columns, err := hiveColumns(t.Schema, sparkTypes)
	if err != nil {
		return "", err
	}
	before := ""
	if strings.Contains(t.Schema.text, "timestamp-nanos") {
		before = "-- Spark has no nanoseconds: such timestamps are numbers.\nSET spark.sql.legacy.parquet.nanosAsLong = true;\n\n"
	}
	return before + fmt.Sprintf("CREATE TABLE IF NOT EXISTS `%s` (\n%s,\n  `dt` date,\n  `hr` string\n)\nUSING parquet\nPARTITIONED BY (`dt`, `hr`)\nLOCATION '%s';\n\n"+
		"-- Makes new hours visible: run it again whenever they should be.\nMSCK REPAIR TABLE `%s`;\n",
		t.Name, columns, t.Location, t.Name), nil
}

// dialect are the names of types in which engines differ.
type dialect struct {
	colon  string
	quote  string // of fields of structs
	zoned  string // an instant
	local  string // a date and time of no zone
	nanos  string // timestamps in nanoseconds
	time32 string // milliseconds of the day
	time64 string // microseconds of the day
}

var (
	athenaTypes = dialect{colon: ":", zoned: "timestamp", local: "timestamp", nanos: "timestamp", time32: "int", time64: "bigint"}
	sparkTypes  = dialect{colon: ": ", quote: "`", zoned: "timestamp", local: "timestamp_ntz", nanos: "bigint", time32: "int", time64: "bigint"}
)

// hiveColumns lists all columns with their types in the notation of Hive, which knows no upper case: names that
// differ in case alone are refused.
func hiveColumns(s *Schema, d dialect) (string, error) {
	lines := []string{
		"  `_partition` int", "  `_offset` bigint", "  `_timestamp` " + d.zoned, "  `_key` binary",
		"  `_headers` array<struct<" + d.quote + "key" + d.quote + d.colon + "string," + d.quote + "value" + d.quote + d.colon + "binary>>", "  `_tombstone` boolean",
	}
	if err := distinct(s.root, "dt", "hr"); err != nil {
		return "", err
	}
	for _, c := range s.root.children {
		lines = append(lines, fmt.Sprintf("  `%s` %s", c.name, c.hiveType(d)))
	}
	return strings.Join(lines, ",\n"), nil
}

// distinct refuses fields that such an engine cannot tell apart.
func distinct(c *column, taken ...string) error {
	seen := map[string]string{}
	for _, name := range taken {
		seen[name] = "a folder"
	}
	for _, child := range c.children {
		lower := strings.ToLower(child.name)
		if other, ok := seen[lower]; ok && (c.kind == kindRecord || c.kind == kindChoice) {
			return fmt.Errorf("%w for this engine: the names of field %s and of %s differ in upper and lower case at most", ErrSchema, child.path, other)
		}
		seen[lower] = child.name
		if err := distinct(child); err != nil {
			return err
		}
	}
	return nil
}

func (c *column) hiveType(d dialect) string {
	switch c.kind {
	case kindRecord, kindChoice:
		fields := make([]string, len(c.children))
		for i, child := range c.children {
			fields[i] = d.quote + child.name + d.quote + d.colon + child.hiveType(d)
		}
		return "struct<" + strings.Join(fields, ",") + ">"
	case kindList:
		return "array<" + c.children[0].hiveType(d) + ">"
	case kindMap:
		return "map<" + c.children[0].hiveType(d) + "," + c.children[1].hiveType(d) + ">"
	}
	if logical := c.leaf.Type().LogicalType(); logical != nil {
		switch l := logical.Value.(type) {
		case *format.DecimalType:
			return fmt.Sprintf("decimal(%d,%d)", l.Precision, l.Scale)
		case *format.DateType:
			return "date"
		case *format.TimeType:
			if c.kind == kindInt {
				return d.time32
			}
			return d.time64
		case *format.TimestampType:
			_, nanos := l.Unit.Value.(*format.NanoSeconds)
			switch {
			case nanos:
				return d.nanos
			case l.IsAdjustedToUTC:
				return d.zoned
			}
			return d.local
		}
	}
	switch c.kind {
	case kindBoolean:
		return "boolean"
	case kindInt:
		return "int"
	case kindLong:
		return "bigint"
	case kindFloat:
		return "float"
	case kindDouble:
		return "double"
	case kindString, kindEnum:
		return "string"
	}
	return "binary"
}
