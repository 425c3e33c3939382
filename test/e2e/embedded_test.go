package e2e

import (
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Stopping and starting every service in the middle of the load and of the rebuild changes nothing.
func TestEmbedded(t *testing.T) {
	program(t, "cmd/databus") // its time is not the demo's
	dir := t.TempDir()
	keys := filepath.Join(dir, "keys.json") // the first run makes it
	const limit = 3 * time.Minute
	args := []string{"--records", "2000", "--keys-file", keys}
	plain := demo(t, limit, nil, filepath.Join(dir, "plain"), args...)
	plain.check(t, 2000)
	restarted := demo(t, limit, nil, filepath.Join(dir, "restarted"), append(args, "--restart-services")...)
	restarted.check(t, 2000)
	if a, b := plain.comparable(t), restarted.comparable(t); a != b {
		t.Errorf("outcomes differ: without restarts\n%s\nwith restarts\n%s", a, b)
	}
}

// The story is what a person sees; it holds no progress bars where there is no terminal.
func TestDemoTellsItsStory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	p := run(t, 3*time.Minute, program(t, "cmd/databus"), "--dir", dir, "demo", "--records", "400")
	if p.ExitCode() != 0 {
		t.Fatalf("exit code %d\n%s%s", p.ExitCode(), &p.out, &p.err)
	}
	for _, want := range []string{"customer records loaded", "persons found", "by PersonID", "passed 80 % and 100 %", "answered 429", "archive files written",
		"live = rebuilt: ", ", 0 differences", "under graph g2", "--dir " + dir + " dev"} {
		if !strings.Contains(p.out.String(), want) {
			t.Errorf("the story does not say %q:\n%s", want, &p.out)
		}
	}
	if strings.Contains(p.out.String()+p.err.String(), "\r") {
		t.Error("there are bars without a terminal")
	}
}
