package process

import (
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"sync"
)

// Binaries are commands built from source, each once, in a temporary directory that Remove deletes.
type Binaries struct {
	mu    sync.Mutex
	dir   string
	built map[string]bool // by import path
}

// Build builds the commands with these import paths that it has not built before, and returns the directory of all
// binaries; a binary is named as the last element of its import path. What only a debugger needs is left out: that halves the
// time of the linker.
func (b *Binaries) Build(imports ...string) (dir string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.dir == "" {
		if b.dir, err = os.MkdirTemp("", "databus-binaries-"); err != nil {
			return "", fmt.Errorf("making a directory for binaries: %w", err)
		}
		b.built = map[string]bool{}
	}
	var missing []string
	for _, i := range imports {
		if !b.built[i] {
			missing = append(missing, i)
		}
	}
	if len(missing) == 0 {
		return b.dir, nil
	}
	if out, err := exec.Command("go", append([]string{"build", "-ldflags=-s -w", "-o", b.dir + "/"}, missing...)...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %v: %w\n%s", missing, err, out)
	}
	for _, i := range missing {
		b.built[i] = true
	}
	return b.dir, nil
}

// Path builds one command and returns the path of its binary.
func (b *Binaries) Path(imports string) (string, error) {
	dir, err := b.Build(imports)
	return filepath.Join(dir, path.Base(imports)), err
}

// Remove deletes what was built.
func (b *Binaries) Remove() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.dir != "" {
		_ = os.RemoveAll(b.dir)
		b.dir = ""
	}
}
