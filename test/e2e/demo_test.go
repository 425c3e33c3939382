package e2e

import (
	"encoding/json"
	"testing"
	"time"
)

// An outcome is what `databus demo --format json` prints. Equal records and keys give equal outcomes, but for Took.
type outcome struct {
	Records  int64 `json:"records"`
	Refused  int64 `json:"refused"`
	Persons  int64 `json:"persons"`
	Rows     int64 `json:"rows"`
	Archived int64 `json:"archived_records"`
	Sample   struct {
		RecordID string `json:"record_id"`
		PersonID string `json:"person_id"`
		FCID     string `json:"fcid"`
		ByPerson int    `json:"by_person"`
		ByFCID   int    `json:"by_fcid"`
	} `json:"sample"`
	Thresholds []int64          `json:"thresholds"`
	Counted    map[string]int64 `json:"counted"`
	Compared   struct {
		Rows        int64 `json:"rows"`
		Differences int64 `json:"differences"`
	} `json:"compared"`
	Tables     string `json:"tables"`
	NewTables  string `json:"new_tables"`
	NewPersons int64  `json:"new_persons"`
	Merged     int64  `json:"merged"`
	Split      int64  `json:"split"`

	Took map[string]int64 `json:"took"` // nanoseconds, and what depends on time
}

// comparable is the outcome without what depends on time: how long things took, and how many records the load had to
// send twice because the API was being restarted. Repeats change nothing else, which is what the rest says.
func (o outcome) comparable(t *testing.T) string {
	t.Helper()
	o.Took = nil
	if o.Archived < o.Records {
		t.Errorf("%d records were loaded, only %d archived", o.Records, o.Archived)
	}
	o.Archived = 0
	b, err := json.MarshalIndent(o, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// check holds for every outcome.
func (o outcome) check(t *testing.T, records int64) {
	t.Helper()
	if o.Records != records || o.Refused != 0 {
		t.Errorf("%d records loaded, %d refused, want %d and none", o.Records, o.Refused, records)
	}
	if o.Compared.Differences != 0 || o.Compared.Rows < records || o.Rows != o.Compared.Rows {
		t.Errorf("live and rebuilt: %d rows, %d differences; the outcome says %d rows", o.Compared.Rows, o.Compared.Differences, o.Rows)
	}
	if len(o.Thresholds) != 2 || o.Thresholds[0] != 80 || o.Thresholds[1] != 100 {
		t.Errorf("thresholds crossed: %v", o.Thresholds)
	}
	if o.Persons == 0 || o.Persons > records || o.NewPersons == 0 || o.NewPersons >= o.Persons || o.Merged == 0 {
		t.Errorf("%d persons, then %d with %d merged", o.Persons, o.NewPersons, o.Merged)
	}
	var counted int64
	for _, n := range o.Counted {
		counted += n
	}
	if want := records + demoWrites; counted != want {
		t.Errorf("%d written records were counted, want %d", counted, want)
	}
	if len(o.Tables) != 64 || len(o.NewTables) != 64 || o.Tables == o.NewTables {
		t.Errorf("digests of the tables: %q and %q", o.Tables, o.NewTables)
	}
}

// demoWrites is how many records the demo changes while it rebuilds, repeats not counted.
const demoWrites = 300

// demo runs the command to its end and reads its outcome.
func demo(t *testing.T, limit time.Duration, env []string, dir string, args ...string) outcome {
	t.Helper()
	p := start(t, env, program(t, "cmd/databus"), append([]string{"--dir", dir, "demo", "--format", "json"}, args...)...)
	if code := p.wait(t, limit); code != 0 {
		t.Fatalf("the demo ended with exit code %d\n%s%s", code, &p.err, tail(dir+"/databus.log", 15))
	}
	t.Logf("the demo used %v of CPU time and said:\n%s", p.CPU().Round(time.Millisecond), &p.err)
	// On embedded parts it promises to end within a minute on two cores. The clock would say how busy this machine is.
	if p.CPU() > time.Minute && env == nil {
		t.Errorf("the demo used %v of CPU time", p.CPU())
	}
	var o outcome
	if err := json.Unmarshal([]byte(p.out.String()), &o); err != nil {
		t.Fatalf("the outcome cannot be read: %v\n%s", err, &p.out)
	}
	return o
}
