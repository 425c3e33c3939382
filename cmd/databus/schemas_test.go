package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"databus/schemas"
	"databus/schemas/codec"
)

// repository is a git repository with the schemas in schemas/avro, committed once.
func repository(t *testing.T) (dir, avro string) {
	t.Helper()
	dir = t.TempDir()
	avro = filepath.Join(dir, "schemas", "avro")
	if err := os.MkdirAll(avro, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range schemas.Schemas() {
		text, _ := schemas.Avro(name)
		if err := os.WriteFile(filepath.Join(avro, name+".avsc"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("git", "-C", dir, "init", "-q").CombinedOutput(); err != nil {
		t.Fatalf("git init: %v: %s", err, out)
	}
	commitAll(t, dir, "schemas")
	return dir, avro
}

func commitAll(t *testing.T, dir, message string) {
	t.Helper()
	for _, args := range [][]string{{"add", "."}, {"commit", "-qm", message}} {
		cmd := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v: %s", args, err, out)
		}
	}
}

func change(t *testing.T, dir, name, from, to string) {
	t.Helper()
	path := filepath.Join(dir, name+".avsc")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(b), from) {
		t.Fatalf("%s does not hold %q", name, from)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(b), from, to, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestSchemasAgainstGit(t *testing.T) {
	_, avro := repository(t)
	check := func(args ...string) result {
		return invoke(t.Context(), strings.NewReader(""), append([]string{"schemas", "check", "--source", avro}, args...)...)
	}
	if r := check(); r.code != 0 || !strings.Contains(r.out, "schemas of HEAD") {
		t.Fatalf("unchanged: %+v", r)
	}
	// A new field with a default can be read from old events.
	change(t, avro, "usage_event", `"fields": [`, `"fields": [{"name":"region","type":"string","default":""},`)
	if r := check(); r.code != 0 {
		t.Fatalf("a field with a default: %+v", r)
	}
	change(t, avro, "usage_event", `,"default":""}`, `}`)
	change(t, avro, "usage_count", `"name": "matched",`+"\n      \"type\": \"long\"", `"name": "matched",`+"\n      \"type\": \"string\"")
	change(t, avro, "limit_state", `"name": "LimitState"`, `"name": "LimitsState"`)
	if err := os.Remove(filepath.Join(avro, "contract.avsc")); err != nil {
		t.Fatal(err)
	}
	r := check()
	r.fails(t, 1, "4 schemas do not fit", "give new fields a default")
	for _, want := range []string{
		"usage_event.avsc: at region: ", "usage_count.avsc: at matched: the type was long and is string",
		"limit_state.avsc: at (root): the name was databus.LimitState and is databus.LimitsState",
		"contract.avsc was removed, but usage.contracts is written with it",
	} {
		if !strings.Contains(r.out, want) {
			t.Errorf("%q is missing in %s", want, r.out)
		}
	}
	check("--against-git", "nowhere").fails(t, 1, "git knows no commit nowhere")
	check("--against-git", "").fails(t, 1, "nothing to check against")
	outside := t.TempDir()
	invoke(t.Context(), strings.NewReader(""), "schemas", "check", "--source", outside).fails(t, 1, "holds no .avsc files")
}

func TestSchemasAgainstRegistry(t *testing.T) {
	s := start(t)
	url := s.Registry.URL()
	check := func(args ...string) result {
		return s.run(t, append([]string{"schemas", "check", "--against-git", ""}, args...)...)
	}
	if r := check("--registry", url); r.code != 0 {
		t.Fatalf("an empty registry: %+v", r)
	}
	out := s.ok(t, "schemas", "register")
	if want := len(schemas.Catalogue()); strings.Count(out, "\n") != want {
		t.Errorf("registered %s", out)
	}
	if again := s.ok(t, "schemas", "register"); again != out {
		t.Errorf("registering again printed %s, not %s", again, out)
	}
	if r := check("--live"); r.code != 0 {
		t.Fatalf("what was registered: %+v", r)
	}
	_, avro := repository(t)
	change(t, avro, "usage_event", `"fields": [`, `"fields": [{"name":"region","type":"string"},`)
	r := check("--live", "--source", avro)
	r.fails(t, 1, "1 schemas do not fit")
	if !strings.Contains(r.out, "usage_event.avsc: ") || !strings.Contains(r.out, "usage.events-value") {
		t.Errorf("printed %s", r.out)
	}

	// The levels are the catalogue's: a registry that holds something else under a subject refuses ours.
	other := start(t)
	registry := codec.NewRegistry(other.Registry.URL())
	if _, err := registry.Register(context.Background(), "usage.events-value", `{"type":"record","name":"UsageEvent","namespace":"databus","fields":[{"name":"event_id","type":"int"}]}`); err != nil {
		t.Fatal(err)
	}
	refused := other.run(t, "schemas", "register")
	refused.fails(t, 1, "cannot read what earlier versions wrote", "make a new topic")
	if !strings.Contains(refused.out, "incompatible") || !strings.Contains(refused.out, "usage.events-value") || !strings.Contains(refused.out, "usage.limits-value: schema limit_state has id") {
		t.Errorf("printed %s", refused.out)
	}
}
