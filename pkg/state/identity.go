package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// FormatVersion of the directory. A newer one is refused, so that a roll-back never misreads rows; an older one is deleted
// and restored.
const FormatVersion = 3

const (
	dbDir      = "db"
	identity   = "STATE"
	identityNo = "STATE.tmp"
)

// ErrForeign is wrapped by Open for a directory that belongs to another service or instance or to a newer version.
var ErrForeign = errors.New("state directory cannot be used")

// owner is the content of STATE.
type owner struct {
	Format   int    `json:"format"`
	Service  string `json:"service"`
	Instance string `json:"instance"`
}

// prepare checks whose directory it is. Without STATE the directory comes from a crash inside the first open, when
// Pebble's files may exist in part: they are deleted.
func prepare(fs vfs.FS, o Options) error {
	if o.Dir == "" || o.Service == "" || o.Instance == "" {
		return errors.New("opening state: directory, service and instance must be set")
	}
	have, ok, err := readOwner(fs, o.Dir)
	if err != nil {
		return err
	}
	if ok {
		if err := have.check(o); err != nil || have.Format == FormatVersion {
			return err
		}
		if o.ReadOnly {
			return fmt.Errorf("opening state in %s: %w: its format version is %d, this program reads %d", o.Dir, ErrForeign, have.Format, FormatVersion)
		}
		if err := unmake(fs, o.Dir); err != nil {
			return fmt.Errorf("opening state in %s: removing a state of format version %d: %w", o.Dir, have.Format, err)
		}
	}
	if o.ReadOnly {
		return fmt.Errorf("opening state in %s: %w: there is no finished state", o.Dir, ErrForeign)
	}
	if err := fs.RemoveAll(fs.PathJoin(o.Dir, dbDir)); err != nil {
		return fmt.Errorf("opening state in %s: removing what an unfinished first open left: %w", o.Dir, err)
	}
	if err := fs.MkdirAll(fs.PathJoin(o.Dir, dbDir), 0o750); err != nil {
		return fmt.Errorf("opening state in %s: %w", o.Dir, err)
	}
	return nil
}

// unmake lets the next prepare delete the database.
func unmake(fs vfs.FS, dir string) error {
	return errors.Join(fs.Remove(fs.PathJoin(dir, identity)), syncDir(fs, dir))
}

func (w owner) check(o Options) error {
	switch {
	case w.Format > FormatVersion:
		return fmt.Errorf("opening state in %s: %w: its format version is %d, this program knows %d; run the newer version, or "+
			"delete the directory and let it be restored from the changelog", o.Dir, ErrForeign, w.Format, FormatVersion)
	case w.Service != o.Service || w.Instance != o.Instance:
		return fmt.Errorf("opening state in %s: %w: it belongs to service %q, instance %q, and this is service %q, instance %q; "+
			"give each instance its own directory (or volume) and its own stable id", o.Dir, ErrForeign, w.Service, w.Instance, o.Service, o.Instance)
	}
	return nil
}

// Owner tells whose directory it is, for inspection.
func Owner(fs vfs.FS, dir string) (service, instance string, format int, err error) {
	if fs == nil {
		fs = vfs.Default
	}
	w, ok, err := readOwner(fs, dir)
	if err == nil && !ok {
		err = fmt.Errorf("opening state in %s: %w: there is no %s file", dir, ErrForeign, identity)
	}
	return w.Service, w.Instance, w.Format, err
}

func readOwner(fs vfs.FS, dir string) (owner, bool, error) {
	f, err := fs.Open(fs.PathJoin(dir, identity))
	if errors.Is(err, os.ErrNotExist) {
		return owner{}, false, nil
	}
	if err != nil {
		return owner{}, false, fmt.Errorf("opening state in %s: %w", dir, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 1<<16))
	if err != nil {
		return owner{}, false, fmt.Errorf("opening state in %s: reading %s: %w", dir, identity, err)
	}
	var w owner
	if err := json.Unmarshal(b, &w); err != nil || w.Format == 0 {
		return owner{}, false, fmt.Errorf("opening state in %s: %w: its %s file cannot be read; delete the directory and let it be "+
			"restored from the changelog", dir, ErrForeign, identity)
	}
	return w, true, nil
}

// finish writes STATE as the last step of the first open: until it is there, in full and on disk, the directory counts as
// unfinished.
func finish(fs vfs.FS, o Options) error {
	if _, ok, err := readOwner(fs, o.Dir); ok || err != nil {
		return err
	}
	b, err := json.Marshal(owner{Format: FormatVersion, Service: o.Service, Instance: o.Instance})
	if err != nil {
		return fmt.Errorf("writing %s in %s: %w", identity, o.Dir, err)
	}
	tmp := fs.PathJoin(o.Dir, identityNo)
	f, err := fs.Create(tmp, vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("writing %s in %s: %w", identity, o.Dir, err)
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = fs.Rename(tmp, fs.PathJoin(o.Dir, identity))
	}
	if err == nil {
		err = syncDir(fs, o.Dir)
	}
	if err != nil {
		return fmt.Errorf("writing %s in %s: %w", identity, o.Dir, err)
	}
	return nil
}

func syncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
