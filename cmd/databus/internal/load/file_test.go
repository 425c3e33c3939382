package load

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/parquet-go/parquet-go"
)

// customer is a row as somebody else's tools write it.
type customer struct {
	ID      int64                      `parquet:"id"`
	Mail    *string                    `parquet:"mail,optional"`
	Born    int32                      `parquet:"born,date"`
	Since   time.Time                  `parquet:"since,timestamp(microsecond)"`
	Score   int64                      `parquet:"score,decimal(2:12)"`
	VIP     bool                       `parquet:"vip"`
	Ratio   float64                    `parquet:"ratio"`
	Tags    []string                   `parquet:"tags,list"`
	Address struct{ City, Zip string } `parquet:"address"`
}

func all(t *testing.T, source File) (records []Record, err error) {
	t.Helper()
	defer func() {
		if err := source.Close(); err != nil {
			t.Error(err)
		}
	}()
	for {
		r, err := source.Next()
		if errors.Is(err, io.EOF) {
			return records, nil
		}
		if err != nil {
			return records, err
		}
		records = append(records, r)
	}
}

// The same customers in three formats are the same records.
func TestFormats(t *testing.T) {
	dir := t.TempDir()
	var csv, ndjson strings.Builder
	var rows []customer
	csv.WriteString("id,mail,born,since,score,vip,ratio,address.City,address.Zip\n")
	const n = 1000
	for i := range n {
		c := customer{ID: int64(i), Born: int32(i * 10), Since: time.UnixMicro(int64(i) * 1e9).UTC(), Score: int64(i*7 - 500), VIP: i%2 == 0, Ratio: float64(i) / 4}
		c.Address.City, c.Address.Zip = "Bern", fmt.Sprint(3000+i)
		mail := ""
		if i%3 != 0 {
			mail = fmt.Sprintf("p%d@mail.example", i)
			c.Mail = &mail
		}
		c.Tags = []string{"a", "b"}
		rows = append(rows, c)
		born := time.Unix(int64(c.Born)*86400, 0).UTC().Format(time.DateOnly)
		score := fmt.Sprintf("%.2f", float64(c.Score)/100)
		fmt.Fprintf(&csv, "%d,%s,%s,%s,%s,%v,%v,Bern,%s\n", c.ID, mail, born, c.Since.Format(time.RFC3339Nano), score, c.VIP, c.Ratio, c.Address.Zip)
		quoted := "null"
		if mail != "" {
			quoted = `"` + mail + `"`
		}
		fmt.Fprintf(&ndjson, `{"id":%d,"mail":%s,"born":"%s","since":"%s","score":%s,"vip":%v,"ratio":%v,"address":{"City":"Bern","Zip":"%s"}}`+"\n",
			c.ID, quoted, born, c.Since.Format(time.RFC3339Nano), score, c.VIP, c.Ratio, c.Address.Zip)
	}
	paths := map[string]string{}
	for format, text := range map[string]string{FormatCSV: csv.String(), FormatNDJSON: ndjson.String()} {
		paths[format] = filepath.Join(dir, "customers."+format)
		if err := os.WriteFile(paths[format], []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	paths[FormatParquet] = filepath.Join(dir, "customers.parquet")
	if err := parquet.WriteFile(paths[FormatParquet], rows, parquet.MaxRowsPerRowGroup(300)); err != nil {
		t.Fatal(err)
	}
	m := Mapping{Account: "acme", RecordID: "id", Fields: map[string]string{"email": "mail", "birth_date": "born", "city": "address.City"}, Run: "run"}
	var want []Record
	for _, format := range []string{FormatCSV, FormatNDJSON, FormatParquet} {
		if got, err := Count(format, paths[format]); err != nil || got != n {
			t.Errorf("%s: %d records, %v", format, got, err)
		}
		source, err := Open(format, paths[format], m)
		if err != nil {
			t.Fatal(err)
		}
		got, err := all(t, source)
		if err != nil || len(got) != n {
			t.Fatalf("%s: %d records, %v", format, len(got), err)
		}
		if want == nil {
			want = got
		}
		ids := map[string]bool{}
		for i, r := range got {
			ids[r.RequestID] = true
			if r.Account != "acme" || r.RecordID != want[i].RecordID || !maps.Equal(r.Fields, want[i].Fields) {
				t.Fatalf("%s: record %d is %+v, want %+v", format, i, r, want[i])
			}
		}
		if len(ids) != n {
			t.Errorf("%s: %d request ids", format, len(ids))
		}
	}
	if f := want[4].Fields; want[4].RecordID != "4" || f["email"] != "p4@mail.example" || f["birth_date"] != "1970-02-10" || f["score"] != "-4.72" || f["vip"] != "true" || f["city"] != "Bern" || f["address.Zip"] != "3004" || f["mail"] != "" {
		t.Errorf("record 4: %v", f)
	}
	m.RecordID = "nr"
	for _, format := range []string{FormatCSV, FormatParquet} {
		if _, err := Open(format, paths[format], m); err == nil || !strings.Contains(err.Error(), `"nr"`) || !strings.Contains(err.Error(), "mail") {
			t.Errorf("%s: %v", format, err)
		}
	}
	m.RecordID = "tags.list.element" // a list can be no id
	if _, err := OpenParquet(paths[FormatParquet], m); err == nil {
		t.Error("a list was taken for an id")
	}
	if _, err := OpenParquet(paths[FormatCSV], m); err == nil {
		t.Error("a CSV file was taken for Parquet")
	}
}

func TestBadNDJSON(t *testing.T) {
	for text, want := range map[string]string{
		"{\"record_id\":\"a\"}\n\nno JSON\n": "line 3 is no JSON object", "[1]\n": "line 1 is no JSON object", "null\n": "line 1 is no JSON object",
		"{\"record_id\":\"a\"}{}\n": "behind its object", "{\"a\":{\"b\":[1]}}\n": "column a.b holds a list",
	} {
		n := NewNDJSON(strings.NewReader(text), Mapping{Run: "run"})
		var err error
		for err == nil {
			_, err = n.Next()
		}
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
	n := NewNDJSON(strings.NewReader("\ufeff{\"record_id\":12345678901234567890,\"x\":null,\"deep\":{\"er\":{\"still\":true}}}"), Mapping{Run: "run"})
	if r, err := n.Next(); err != nil || r.RecordID != "12345678901234567890" || len(r.Fields) != 1 || r.Fields["deep.er.still"] != "true" || r.RequestID != "run/1" {
		t.Errorf("%+v, %v", r, err)
	}
}

// Every record names the composites of the mapping, also where the file has a column of that name.
func TestComposites(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.csv")
	if err := os.WriteFile(path, []byte("id,surname,composites\n1,Smith,\n2,Wu,a+b\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for composites, want := range map[string][]string{"": {"", "a+b"}, "person": {"person", "person"}} {
		source, err := Open(FormatCSV, path, Mapping{Account: "acme", Composites: composites})
		if err != nil {
			t.Fatal(err)
		}
		records, err := all(t, source)
		if err != nil || len(records) != 2 {
			t.Fatal(records, err)
		}
		for i, r := range records {
			if r.Fields["composites"] != want[i] {
				t.Errorf("%q, record %d: %v", composites, i, r.Fields)
			}
		}
	}
}
