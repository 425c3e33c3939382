package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go"
)

// The same customers come from a CSV, an NDJSON and a Parquet file, and a file that is sent again changes nothing.
func TestImportFormats(t *testing.T) {
	dir := t.TempDir()
	d := startDev(t, dir)
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	csv := write("customers.csv", "id,mail,born\n1,anna@mail.example,1980-01-31\n2,ben@mail.example,\n")
	ndjson := write("customers.ndjson", `{"id":1,"contact":{"mail":"anna@mail.example"}}`+"\n"+`{"id":2,"contact":{"mail":null}}`+"\n")
	table := filepath.Join(dir, "customers.parquet")
	type row struct {
		ID   int64  `parquet:"id"`
		Mail string `parquet:"mail"`
	}
	if err := parquet.WriteFile(table, []row{{1, "anna@mail.example"}, {2, "ben@mail.example"}, {3, ""}}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for want, args := range map[string][]string{
			"2 of 2 records accepted, 0 refused":  {"--csv", csv, "--map", "email=mail"},
			"2 of 2 records accepted, 0 refused,": {"--ndjson", ndjson, "--map", "email=contact.mail"},
			"3 of 3 records accepted, 0 refused":  {"--parquet", table, "--map", "email=mail"},
		} {
			if out := d.ok(t, append([]string{"import", "--account", "delta", "--record-id", "id"}, args...)...); !strings.HasPrefix(out, want) {
				t.Errorf("%v: %s", args, out)
			}
		}
	}
	errs := write("errors.csv", "id,given_name,surname,born,postcode\n1,Jane,Smith,1980-01-31,2000\n2,Jayne,Smyth,1980-01-31,2000\n")
	args := []string{"import", "--csv", errs, "--account", "typos", "--record-id", "id", "--map", "birth_date=born", "--composite", "person"}
	if out := d.ok(t, append(args, "--composite", "soundex(name)+born")...); !strings.HasPrefix(out, "2 of 2 records accepted, 0 refused, 0 with warnings") {
		t.Error(out)
	}
	d.run(t, append(args, "--composite", "surname")...).fails(t, 1, "--composite: they are not composites such as")
	d.run(t, "import", "--parquet", table, "--account", "delta").fails(t, 1, "no column \"record_id\"", "it has id, mail")
	d.run(t, "import", "--parquet", csv, "--account", "delta").fails(t, 1, "reading Parquet")
	d.run(t, "import", "--ndjson", csv, "--account", "delta").fails(t, 1, "line 1 is no JSON object")
	d.run(t, "import", "--csv", csv, "--ndjson", ndjson, "--account", "delta").fails(t, 2, "--csv", "--ndjson")
	d.run(t, "import", "--account", "delta").fails(t, 2, "--csv")
}
