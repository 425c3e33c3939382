package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
)

// leaves are the commands that can be run.
func leaves(t *testing.T) []*kong.Node {
	t.Helper()
	parser, err := newParser(t.Context(), &cli{})
	if err != nil {
		t.Fatal(err)
	}
	return parser.Model.Leaves(false)
}

// examples are the indented lines of a command's help that hold the program's name.
func examples(n *kong.Node) []string {
	var all []string
	for _, l := range strings.Split(n.Detail, "\n") {
		if strings.HasPrefix(l, "    ") && strings.Contains(l, "databus ") {
			all = append(all, strings.TrimSpace(l))
		}
	}
	return all
}

func command(n *kong.Node) string { return strings.Fields(n.Path())[0] }

func TestEveryCommandHasHelpWithAnExample(t *testing.T) {
	for _, n := range leaves(t) {
		path := n.FullPath()
		if i := strings.IndexAny(path, "<["); i >= 0 {
			path = strings.TrimSpace(path[:i])
		}
		of := 0
		for _, e := range examples(n) {
			if strings.Contains(e, path) {
				of++
			}
		}
		if of == 0 {
			t.Errorf("the help of `%s` holds no example of it", path)
		}
		r := invoke(t.Context(), strings.NewReader(""), append(strings.Fields(path)[1:], "--help")...)
		if r.code != 0 || !strings.Contains(r.out, "Example") {
			t.Errorf("`%s --help`: %+v", path, r)
		}
	}
}

// tested commands are not run with their examples here: each of them is a test of its own, because it runs for long, needs
// AWS, or needs evidence, which comes in its own time.
var tested = map[string]bool{"dev": true, "demo": true, "init": true, "keys wrap": true, "graph explain": true}

// The examples run in a shell as they stand in the help, with the program as a process, against a Databus as `databus dev`
// runs it in ./data; those of `databus state` when it was stopped.
func TestExamplesWork(t *testing.T) {
	dir, _ := repository(t)
	if err := os.WriteFile(filepath.Join(mkdir(t, dir, "data"), "note"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	commitAll(t, dir, "second")
	d := startDev(t, filepath.Join(dir, "data"))
	d.contract(t, "acme", 1, "UTC", 1000)
	d.ok(t, "usage", "produce", "--account", "acme", "--total", "10", "--pack", "person")
	d.ok(t, "usage", "explain", "acme", "--period", "total", "--wait", "20s")
	d.standby(t, "v2")
	d.await(t, "the limit of acme", "limits", "get", "acme")
	d.await(t, "the group of v2", "groups", "ingest.applier.v2")
	d.await(t, "the archive", "archive", "verify", "usage.events")

	mkdir(t, dir, ".config/fish/completions")
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(program, filepath.Join(mkdir(t, dir, "bin"), "databus")); err != nil {
		t.Fatal(err)
	}
	try := func(offline bool) {
		for _, n := range leaves(t) {
			if tested[command(n)] || tested[strings.Join(strings.Fields(n.Path()), " ")] || (command(n) == "state") != offline {
				continue
			}
			for _, e := range examples(n) {
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				cmd := exec.CommandContext(ctx, "sh", "-c", e)
				cmd.Dir = dir
				cmd.Env = append(os.Environ(), "HOME="+dir, "DATABUS_TEST_AS_PROGRAM=1",
					"PATH="+filepath.Join(dir, "bin")+string(os.PathListSeparator)+os.Getenv("PATH"))
				out, err := cmd.CombinedOutput()
				cancel()
				if err != nil {
					t.Errorf("%s: %v: %s", e, err, out)
				}
			}
		}
	}
	try(false)
	d.stop(t)
	try(true)
}

func mkdir(t *testing.T, parts ...string) string {
	t.Helper()
	dir := filepath.Join(parts...)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		r := invoke(t.Context(), strings.NewReader(""), "completion", shell)
		if r.code != 0 || !strings.Contains(r.out, "complete ") {
			t.Errorf("%s: %+v", shell, r)
		}
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]string{
		"databus con":                            "consume",
		"databus consume usage.l":                "usage.limits",
		"databus topics apply usage.events.d":    "usage.events.dlq",
		"databus topology lim":                   "limiter",
		"databus produce usage.events --key-fi":  "--key-field",
		"databus groups usage-":                  "usage-aggregator\nusage-history",
		"databus usage explain acme --period to": "total",
		"databus limits ge":                      "get",
	} {
		cmd := exec.Command(program)
		cmd.Env = append(os.Environ(), "DATABUS_TEST_AS_PROGRAM=1", "COMP_LINE="+line, fmt.Sprint("COMP_POINT=", len(line)))
		out, err := cmd.CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != want {
			t.Errorf("%q completes to %q (%v), want %q", line, out, err, want)
		}
	}
	if got := shellQuote("/a b/it's"); got != `'/a b/it'\''s'` {
		t.Errorf("quoted %s", got)
	}
}

func TestVersion(t *testing.T) {
	if r := invoke(t.Context(), strings.NewReader(""), "version"); r.code != 0 || !strings.HasPrefix(r.out, "databus ") || strings.Count(r.out, "\n") != 1 {
		t.Errorf("%+v", r)
	}
}
