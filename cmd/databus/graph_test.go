package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"databus/pkg/graph"
	"databus/pkg/identity"
	"databus/pkg/seal"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

func TestGraph(t *testing.T) {
	s := readyStack(t, schemas.IdentityGraphs, schemas.IdentityObservations, schemas.IdentityChanges, schemas.DatabusRecords, schemas.KeysEvents)
	c := codec.New(codec.NewRegistry(s.Registry.URL()), codec.Options{})
	opts := target{brokers: s.Broker.Seeds()}.options()
	s.run(t, "graph", "build", "g1").fails(t, 1, "which bucket")
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv("DATABUS_BUCKET__URL", "file://"+t.TempDir())
	observe := func(source, id string, relation event.Relation, identifiers ...byte) {
		t.Helper()
		o := &event.Observation{EvidenceID: id, Source: source, Relation: relation, Identifiers: []event.EvidenceIdentifier{}, Weight: 1,
			FirstSeen: time.Unix(1, 0), ObservedAt: time.Unix(2, 0)}
		var ids []graph.Identifier
		for _, b := range identifiers {
			ids = append(ids, graph.Identifier{Kind: graph.Email, Hash: [16]byte{b}})
		}
		if len(ids) > 0 {
			o.Identifiers = graph.ToEvidence(ids)
		}
		put(t, opts, c, schemas.IdentityObservations, id, o)
	}
	s.ok(t, "graph", "build", "g1")
	observe("acme", "acme/r1", event.RelationTogether, 1)
	observe("acme", "acme/r2", event.RelationTogether, 2)
	observe("blue", "blue/r3", event.RelationTogether, 3)
	observe("blue", "blue/r4", event.RelationTogether, 3)
	observe("blue", "blue/gone", event.RelationTogether, 4)
	observe("blue", "blue/gone", event.RelationWithdrawn)
	observe("bureau", "x17", event.RelationTogether, 1, 2) // says that r1 and r2 are one person, and is no record
	if out := s.ok(t, "graph", "build", "g2"); out != "graph g2: 2 persons, 3 identifiers, 0 of them shared by too many; graphs/g2.graph\n" {
		t.Error(out)
	}
	s.ok(t, "graph", "build", "g2") // the same evidence, the same file
	var d struct {
		Records, Moved int
		Before         int `json:"persons_before"`
		After          int `json:"persons_after"`
		Merged, Split  []struct {
			From string `json:"from_fcid"`
			To   string `json:"to_fcid"`
		}
	}
	if err := json.Unmarshal([]byte(s.ok(t, "graph", "diff", "g1", "g2", "--format", "json")), &d); err != nil {
		t.Fatal(err)
	}
	if d.Records != 4 || d.Moved != 1 || d.Before != 3 || d.After != 2 || len(d.Merged) != 1 || len(d.Split) != 0 || len(d.Merged[0].From) != 32 {
		t.Errorf("%+v", d)
	}
	if out := s.ok(t, "graph", "diff", "g2", "g1"); !strings.Contains(out, "2 persons become 3") || !strings.Contains(out, "split off: 1\n") {
		t.Error(out)
	}
	// Callers are told, once, in each account's own PersonIDs.
	s.run(t, "graph", "diff", "g1", "g2", "--emit").fails(t, 1, "which file holds the secrets")
	t.Setenv("DATABUS_KEYS__FILE", filepath.Join(t.TempDir(), "keys.json"))
	keys, err := seal.Generate(os.Getenv("DATABUS_KEYS__FILE"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"\n1 events on identity.changes\n", "\n0 events on identity.changes\n"} {
		if out := s.ok(t, "graph", "diff", "g1", "g2", "--emit"); !strings.HasSuffix(out, want) {
			t.Errorf("%s, want %q", out, want)
		}
	}
	if out := s.ok(t, "graph", "build", "g2b", "--since", "g1"); !strings.HasSuffix(out, "\n1 changes since g1 are on identity.changes\n") {
		t.Error(out)
	}
	// Why r1 and r2 are one person: an observation of the bureau, which names both.
	id := func(b byte) string { return graph.Identifier{Kind: graph.Email, Hash: [16]byte{b}}.Text() }
	out := s.ok(t, "graph", "explain", "acme/r1", "--version", "g2")
	for _, want := range []string{"under graph g2; anchor " + id(1), "identifiers: 2\n", "evidence: 3\n", "x17  source bureau, weight 1, first seen 1970-01-01", id(1) + " " + id(2) + "\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	fcid := strings.Fields(out)[1]
	if again := s.ok(t, "graph", "explain", fcid, "--version", "g2"); again != out {
		t.Errorf("by FCID:\n%s", again)
	}
	if out := s.ok(t, "graph", "explain", "acme/r1", id(2), "--version", "g2"); !strings.Contains(out, "by 1 pieces of evidence\n  x17  source bureau") {
		t.Error(out)
	}
	s.run(t, "graph", "explain", "acme/r1", "blue/r3").fails(t, 1, "they are different persons")
	s.run(t, "graph", "explain", "email=anna@mail.example").fails(t, 1, "no evidence names it that graph g2b was built of")
	s.run(t, "graph", "explain", "phone=12").fails(t, 1, "phone: is not a phone number")
	s.run(t, "graph", "explain", "nothing").fails(t, 1, "is no FCID")
	var x struct{ Evidence []map[string]any }
	if err := json.Unmarshal([]byte(s.ok(t, "graph", "explain", id(3), "--format", "json")), &x); err != nil || len(x.Evidence) != 2 {
		t.Errorf("%+v, %v", x, err)
	}
	if out := s.ok(t, "graph", "ls"); strings.Count(out, "\n") != 4 || !strings.Contains(out, "graphs/g2.graph") {
		t.Error(out)
	}
	observe("acme", "acme/r5", event.RelationTogether, 5)
	s.run(t, "graph", "build", "g2").fails(t, 1, "choose another version")
	s.run(t, "graph", "diff", "g2", "g9").fails(t, 1, "no graph version g9: there are g1, g2, g2b")
	s.run(t, "graph", "build", "a/b").fails(t, 2, "is no name of a version")
	// A record by the customer's own id, and a field as customers send it.
	normaliser, err := graph.NewNormaliser(keys.IdentifierPepper(), "US")
	if err != nil {
		t.Fatal(err)
	}
	mail, _ := normaliser.Identifiers(map[string]string{"email": "anna@mail.example"})
	anna := "acme/" + identity.RecordKey(keys.AccountKey("acme"), "anna's own id")
	put(t, opts, c, schemas.IdentityObservations, anna, &event.Observation{EvidenceID: anna, Source: "acme", Relation: event.RelationTogether, Weight: 1,
		Identifiers: graph.ToEvidence(mail), FirstSeen: time.Unix(1, 0), ObservedAt: time.Unix(2, 0)})
	s.ok(t, "graph", "build", "g2c")
	byID, byMail := s.ok(t, "graph", "explain", "acme/anna's own id"), s.ok(t, "graph", "explain", "email=Anna@mail.example")
	if byID != byMail || !strings.Contains(byID, anna) || strings.Contains(strings.ToLower(byID), "anna@") || strings.Contains(byID, "own id") {
		t.Errorf("%s\n%s", byID, byMail)
	}
	// A withdrawal since then is said.
	observe("bureau", "x17", event.RelationWithdrawn)
	if r := s.run(t, "graph", "explain", "acme/r1", "--version", "g2"); r.code != 0 || strings.Contains(r.out, "x17") == strings.Contains(r.err, "since it was built") {
		t.Errorf("%+v", r)
	}
	// Records whose evidence is still to come are said.
	putBytes(t, opts, schemas.DatabusRecords, "acme/r6", []byte("x"))
	if r := s.run(t, "graph", "build", "g3"); r.code != 0 || !strings.Contains(r.err, fmt.Sprintf("of up to %d records", 1)) {
		t.Errorf("%+v", r)
	}
}

// Evidence of another source is loaded from a file, joins persons in the next graph, and can be replaced and withdrawn.
func TestGraphLoad(t *testing.T) {
	s := readyStack(t, schemas.IdentityGraphs, schemas.IdentityObservations, schemas.IdentityChanges, schemas.DatabusRecords, schemas.KeysEvents)
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv("DATABUS_BUCKET__URL", "file://"+t.TempDir())
	t.Setenv("DATABUS_KEYS__FILE", filepath.Join(t.TempDir(), "keys.json"))
	if _, err := seal.Generate(os.Getenv("DATABUS_KEYS__FILE")); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "links.csv")
	write := func(lines string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(lines), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("id,mail,other,phone,relation,weight,first_seen\n" +
		"1,anna@mail.example,a.smith@work.example,,,0.9,2020-01-31\n" +
		"2,bert@mail.example,anna@mail.example,,,2,\n" + // no weight
		"3,,,+1 202 555 0123,,1,\n" + // nothing to be together with
		"4,dora@mail.example,no address,,,1,\n" +
		"5,emil@mail.example,fred@mail.example,,sideways,1,\n" +
		",emil@mail.example,fred@mail.example,,,1,\n" +
		"7,emil@mail.example,fred@mail.example,,,1,2999-01-01\n" +
		"8,gina@mail.example,hugo@mail.example,,together,0.6,2020-01-31T10:00:00Z\n")
	loading := []string{"graph", "load", "--csv", file, "--source", "partner", "--id", "id", "--map", "email=mail", "--map", "email_2=other"}
	r := s.run(t, append(loading, "--format", "json")...)
	r.fails(t, 1, "6 lines of", "were refused")
	var sum struct {
		Lines, Loaded, Refused int
		Problems               []string
	}
	if err := json.Unmarshal([]byte(r.out), &sum); err != nil || sum.Lines != 8 || sum.Loaded != 2 || sum.Refused != 6 || len(sum.Problems) != 6 {
		t.Errorf("%v: %+v", err, sum)
	}
	if strings.Contains(r.out+r.err, "mail.example") || strings.Contains(r.out, "no address") {
		t.Errorf("values are printed:\n%s%s", r.out, r.err)
	}
	if out := s.ok(t, "graph", "build", "g1"); !strings.HasPrefix(out, "graph g1: 2 persons, 8 identifiers") {
		t.Error(out)
	}
	out := s.ok(t, "graph", "explain", "email=anna@mail.example", "email=a.smith@work.example", "--version", "g1")
	if !strings.Contains(out, "source:partner/1  source partner, weight 0.9, first seen 2020-01-31") {
		t.Error(out)
	}
	// Identifiers as explain prints them, and a withdrawal.
	hash := func(b byte) string { return graph.Identifier{Kind: graph.MAID, Hash: [16]byte{b}}.Text() }
	write("id,mail,other,identifiers,relation\n1,,,,withdrawn\n9,,," + hash(1) + " " + hash(2) + ",\n10,gina@mail.example,hugo@mail.example,,apart\n")
	if out := s.ok(t, loading...); out != "3 of 3 lines loaded, 0 refused\n" {
		t.Error(out)
	}
	// Gina and Hugo are two, each with both forms of the address.
	if out := s.ok(t, "graph", "build", "g2"); !strings.HasPrefix(out, "graph g2: 3 persons, 6 identifiers") {
		t.Error(out)
	}
	s.run(t, "graph", "explain", "email=anna@mail.example", "--version", "g2").fails(t, 1, "graph g2")
	s.ok(t, "graph", "explain", hash(1), "--version", "g2")
	s.run(t, "graph", "load", "--csv", file, "--source", "no name").fails(t, 2, "is no name of a source")
}
