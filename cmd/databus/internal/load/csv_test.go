package load

import (
	"errors"
	"io"
	"strings"
	"testing"
)

func TestCSV(t *testing.T) {
	m := Mapping{Account: "a", RecordID: "rec_id", Fields: map[string]string{"birth_date": "date_of_birth"}, Run: "run"}
	c, err := NewCSV(strings.NewReader("rec_id, given_name, date_of_birth\nr-1, anna, 19800102\nr-2,,\n"), m)
	if err != nil {
		t.Fatal(err)
	}
	one, err := c.Next()
	if err != nil || one.RecordID != "r-1" || one.Fields["given_name"] != "anna" || one.Fields["birth_date"] != "19800102" || one.Fields["date_of_birth"] != "" || one.RequestID != "run/2" {
		t.Errorf("first row is %+v, %v", one, err)
	}
	two, err := c.Next()
	if err != nil || two.RecordID != "r-2" || len(two.Fields) != 0 {
		t.Errorf("second row is %+v, %v", two, err)
	}
	if _, err := c.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("behind the last row: %v", err)
	}
	if _, err := NewCSV(strings.NewReader("id,name\n"), Mapping{RecordID: "rec_id"}); err == nil || !strings.Contains(err.Error(), `"rec_id"`) || !strings.Contains(err.Error(), "id, name") {
		t.Errorf("missing id column: %v", err)
	}
	m.Fields["phone"] = "tel"
	if _, err := NewCSV(strings.NewReader("rec_id,date_of_birth\n"), m); err == nil || !strings.Contains(err.Error(), `"tel"`) {
		t.Errorf("missing mapped column: %v", err)
	}
}
