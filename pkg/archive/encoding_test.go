package archive_test

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/format"

	"databus/pkg/archive"
)

// Ids are written without a dictionary, names with one, and a column that says too little with one as well.
func TestIDsHaveNoDictionary(t *testing.T) {
	schema := compile(t, `{"type":"record","name":"R","fields":[{"name":"id","type":"string"},{"name":"name","type":"string"},
		{"name":"some","type":["null","string"]},{"name":"tags","type":{"type":"array","items":"string"}}]}`)
	var records []archive.Record
	for i := range 6000 {
		v := appendBytes(appendBytes(nil, fmt.Appendf(nil, "id-%d", i)), fmt.Appendf(nil, "name-%d", i%900))
		if i%100 == 0 {
			v = appendBytes(append(v, 2), fmt.Appendf(nil, "some-%d", i)) // 41 values in the sample
		} else {
			v = append(v, 0)
		}
		v = append(appendBytes(append(v, 2), fmt.Appendf(nil, "tag-%d", i)), 0)
		records = append(records, archive.Record{Offset: int64(i), Timestamp: 1, Value: v})
	}
	object, _ := encode(t, schema, 0, 6000, records)
	f, err := parquet.OpenFile(bytes.NewReader(object), int64(len(object)))
	if err != nil {
		t.Fatal(err)
	}
	columns := f.Metadata().RowGroups[0].Columns
	for i, dictionary := range map[int]bool{7: false, 8: true, 9: true, 10: false} {
		meta := columns[i].MetaData
		if got := slices.Contains(meta.Encoding, format.RLEDictionary); got != dictionary {
			t.Errorf("column %v: encodings %v, a dictionary is wanted: %v", meta.PathInSchema, meta.Encoding, dictionary)
		}
	}
	if got, _ := decode(t, object); len(got) != 6000 || !bytes.Equal(got[5999].Value, records[5999].Value) {
		t.Errorf("%d records came back, the last as %q", len(got), got[len(got)-1].Value)
	}
}
