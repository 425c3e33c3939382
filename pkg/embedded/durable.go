package embedded

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// writeFileAtomic replaces the file at path, so that after a crash or a power cut it holds either the old bytes or the
// new ones, whole.
func writeFileAtomic(path string, data []byte) (err error) {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// countStart adds one to the number in the file and returns it. No file counts as zero.
func countStart(path string) (int, error) {
	n := 0
	switch raw, err := os.ReadFile(path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return 0, err
	default:
		if n, err = strconv.Atoi(strings.TrimSpace(string(raw))); err != nil || n < 1 {
			return 0, fmt.Errorf("%s holds no start count: remove the directory, or write a number above every earlier one", path)
		}
	}
	n++
	return n, writeFileAtomic(path, []byte(strconv.Itoa(n)+"\n"))
}
