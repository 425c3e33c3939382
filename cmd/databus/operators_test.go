package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What operators ask of a running Databus, and of the state it leaves.
func TestOperatorsCommands(t *testing.T) {
	dir := t.TempDir()
	d := startDev(t, dir)
	d.contract(t, "acme", 1, "UTC", 100)
	d.ok(t, "usage", "produce", "--account", "acme", "--account", "beta", "-n", "600", "--duplicates", "0.2", "--pack", "person", "--pack", "lookup")
	// The account moves to another time zone in the middle: its month begins anew.
	d.ok(t, "usage", "explain", "acme", "--period", "total", "--wait", "20s")
	d.contract(t, "acme", 2, "Pacific/Kiritimati", 100)
	d.await(t, "the second contract", "usage", "explain", "acme", "--period", "total", "--wait", "20s")
	d.ok(t, "usage", "produce", "--account", "acme", "-n", "200", "--duplicates", "0.2", "--pack", "person")
	d.ok(t, "usage", "explain", "acme", "--period", "total", "--wait", "20s")

	// Every count of the account explains itself.
	lines := strings.Split(strings.TrimSpace(d.ok(t, "usage", "counts", "acme", "--format", "json")), "\n")
	if len(lines) < 6 {
		t.Errorf("counts: %v", lines)
	}
	renewed := false
	for _, line := range lines {
		var u struct{ Pack, Period string }
		if err := json.Unmarshal([]byte(line), &u); err != nil {
			t.Fatal(err)
		}
		renewed = renewed || strings.HasSuffix(u.Period, "@2")
		if r := d.run(t, "usage", "explain", "acme", "--pack", u.Pack, "--period", u.Period); r.code != 0 {
			t.Errorf("%s %s: %s%s", u.Pack, u.Period, r.out, r.err)
		}
	}
	if !renewed {
		t.Errorf("no period began anew: %v", lines)
	}

	limits := d.await(t, "limits", "limits", "get", "acme", "--format", "json")
	if !strings.Contains(limits, `"state":"EXCEEDED"`) || !strings.Contains(limits, `"kind":"PERCENT","value":80`) || !strings.Contains(limits, `"value":100`) {
		t.Errorf("%s", limits)
	}
	if out := d.ok(t, "limits", "get", "acme"); !strings.Contains(out, "80 %, 100 %") {
		t.Errorf("%s", out)
	}
	d.run(t, "limits", "get", "beta").fails(t, 1, "no limit of account beta")

	var g groupView
	if err := json.Unmarshal([]byte(d.ok(t, "groups", "usage-aggregator", "--format", "json")), &g); err != nil {
		t.Fatal(err)
	}
	if g.Service != "usage-aggregator" || g.Subtopology != "main" || len(g.Members) != 1 || len(g.Members[0].Topics) < 2 || len(g.Members[0].Topics[0].Partitions) != 8 || g.Members[0].Host == "" || g.Members[0].Instance == "" {
		t.Errorf("%+v", g)
	}
	if out := d.ok(t, "groups", "usage-aggregator"); !strings.Contains(out, "usage.events") || !strings.Contains(out, "0-7") {
		t.Errorf("%s", out)
	}
	if out := d.ok(t, "groups"); !strings.Contains(out, "ingest.applier.v1") || !strings.Contains(out, "limiter") {
		t.Errorf("%s", out)
	}
	d.run(t, "groups", "nobody").fails(t, 1, "no group nobody: there are ")

	csv := filepath.Join(dir, "customers.csv")
	if err := os.WriteFile(csv, []byte("id,mail,born\nr1,anna@mail.example,1980-01-31\nr2,ben@mail.example,\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time it is a repeat
		out := d.ok(t, "import", "--csv", csv, "--account", "gamma", "--record-id", "id", "--map", "email=mail", "--map", "birth_date=born")
		if !strings.HasPrefix(out, "2 of 2 records accepted, 0 refused") {
			t.Errorf("%s", out)
		}
	}
	d.run(t, "import", "--csv", csv, "--account", "gamma", "--record-id", "nr").fails(t, 1, "no column \"nr\"")
	d.run(t, "import", "--csv", csv, "--account", "a/b").fails(t, 2, "no account id")

	state := filepath.Join(dir, "state", "usage-aggregator")
	d.run(t, "state", "inspect", state).fails(t, 1, "is in use by the running instance", "stop it first")
	d.stop(t)
	offline := func(args ...string) result {
		return invoke(t.Context(), strings.NewReader(""), append([]string{"state", "inspect"}, args...)...)
	}
	r := offline(state, "--format", "json")
	var v stateView
	if err := json.Unmarshal([]byte(r.out), &v); err != nil {
		t.Fatalf("%+v: %v", r, err)
	}
	rows, inputs := map[string]int64{}, int64(0)
	for _, p := range v.Partitions {
		inputs += p.Inputs["usage.events"]
		for _, s := range p.Stores {
			rows[s.Store] += s.Rows
		}
	}
	if v.Service != "usage-aggregator" || v.Format < 1 || v.DiskBytes == 0 || inputs < 800 || rows["contracts"] != 1 || rows["counts"] < 10 || rows["seen"] < 2 {
		t.Errorf("%+v, rows %v, inputs %d", v, rows, inputs)
	}
	if r := offline(state); r.code != 0 || !strings.Contains(r.out, "usage.events@") {
		t.Errorf("%+v", r)
	}
	if r := offline(state, "--store", "counts", "--prefix", "acme/person/total"); r.code != 0 || strings.Count(r.out, "\n") != 1 || !strings.Contains(r.out, `"key":"acme/person/total"`) || !strings.Contains(r.out, `"matched":`) {
		t.Errorf("%+v", r)
	}
	if r := offline(state, "--store", "counts", "--max", "5"); r.code != 0 || strings.Count(r.out, "\n") != 5 || !strings.Contains(r.err, "more than 5 rows") {
		t.Errorf("%+v", r)
	}
	if r := offline(state, "--store", "seen"); r.code != 0 || !strings.Contains(r.out, `"collected_ids":`) {
		t.Errorf("%+v", r)
	}
	if r := offline(filepath.Join(dir, "state", "ingest"), "--store", "history"); r.code != 0 || strings.Count(r.out, "\n") != 2 || !strings.Contains(r.out, "recent_requests") {
		t.Errorf("%+v", r)
	}
	offline(state, "--store", "nothing").fails(t, 1, "no rows of store nothing: there are ")
	offline(state, "--prefix", "a").fails(t, 1, "--store")
	offline(filepath.Join(dir, "state")).fails(t, 1, "holds several state directories")
	offline(t.TempDir()).fails(t, 1, "there is no file STATE")
	// Every store of every service is known: a row that is printed as bytes is one that inspectors lost sight of.
	for _, service := range []string{"usage-aggregator", "limiter", "ingest"} {
		var v stateView
		if err := json.Unmarshal([]byte(offline(filepath.Join(dir, "state", service), "--format", "json").out), &v); err != nil {
			t.Fatal(err)
		}
		for _, p := range v.Partitions {
			for _, s := range p.Stores {
				if r := offline(filepath.Join(dir, "state", service), "--store", s.Store); r.code != 0 || strings.Contains(r.out, `"bytes":`) {
					t.Errorf("%s, store %s: %+v", service, s.Store, r)
				}
			}
		}
	}
}
