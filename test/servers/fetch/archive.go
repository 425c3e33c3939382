package fetch

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// maxExtracted bounds what one archive may unpack to; the largest pinned one has 150 MB.
const maxExtracted = 2 << 30

// Untar unpacks the regular files of a .tar.gz into dir. Names that would leave dir are an error.
func Untar(archive, dir string) error {
	f, err := os.Open(archive)
	if err != nil {
		return fmt.Errorf("opening archive: %w", err)
	}
	defer func() { _ = f.Close() }()
	z, err := gzip.NewReader(f)
	if err != nil {
		return fmt.Errorf("unpacking %s: %w", archive, err)
	}
	in, left := tar.NewReader(z), int64(maxExtracted)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("unpacking %s: %w", archive, err)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if !filepath.IsLocal(h.Name) {
			return fmt.Errorf("unpacking %s: the name %q leaves the directory", archive, h.Name)
		}
		if left -= h.Size; left < 0 {
			return fmt.Errorf("unpacking %s: more than %d bytes", archive, int64(maxExtracted))
		}
		if err := write(filepath.Join(dir, h.Name), in, h.FileInfo().Mode().Perm()|0o600); err != nil {
			return fmt.Errorf("unpacking %s: %w", archive, err)
		}
	}
}

func write(path string, in io.Reader, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	out, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		_ = out.Close()
		return err
	}
	return out.Close()
}
