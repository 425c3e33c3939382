package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"databus/test/servers"
)

func TestMain(m *testing.M) { servers.Main(m, programs.remove) }

// programs are built once for all tests, by whichever needs one first.
var programs binaries

type binaries struct {
	mu    sync.Mutex
	dir   string
	built map[string]string // path of the binary by directory of the sources
}

// program builds the command in a directory of the repository, such as cmd/databus, and returns the binary's path.
func program(t testing.TB, source string) string {
	t.Helper()
	path, err := programs.build(source)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func (b *binaries) build(source string) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if path := b.built[source]; path != "" {
		return path, nil
	}
	if b.dir == "" {
		dir, err := os.MkdirTemp("", "databus-e2e-")
		if err != nil {
			return "", fmt.Errorf("making a directory for programs: %w", err)
		}
		b.dir, b.built = dir, map[string]string{}
	}
	path := filepath.Join(b.dir, filepath.Base(source))
	cmd := exec.Command("go", "build", "-o", path, ".")
	cmd.Dir = filepath.Join("..", "..", filepath.FromSlash(source))
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s: %w\n%s", source, err, out)
	}
	b.built[source] = path
	return path, nil
}

func (b *binaries) remove() {
	if b.dir != "" {
		_ = os.RemoveAll(b.dir)
	}
}
