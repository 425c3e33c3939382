package blob_test

import (
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"databus/pkg/blob"
	"databus/pkg/blob/blobtest"
)

func TestFileSystem(t *testing.T) {
	blobtest.Run(t, func(t *testing.T) blob.Bucket {
		b, err := blob.Open(t.Context(), "file://"+filepath.Join(t.TempDir(), "new", "dir"))
		if err != nil {
			t.Fatal(err)
		}
		return b
	})
}

func TestMemory(t *testing.T) {
	blobtest.Run(t, func(t *testing.T) blob.Bucket {
		b, err := blob.Open(t.Context(), "mem://")
		if err != nil {
			t.Fatal(err)
		}
		return b
	})
}

// Two processes are two buckets on one directory.
func TestFileSystemCreateOnlyAcrossBuckets(t *testing.T) {
	dir := t.TempDir()
	one, err := blob.OpenFileSystem(dir)
	if err != nil {
		t.Fatal(err)
	}
	two, err := blob.OpenFileSystem(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := one.Put(t.Context(), "k", strings.NewReader("one"), blob.PutOptions{CreateOnly: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := two.Put(t.Context(), "k", strings.NewReader("two"), blob.PutOptions{CreateOnly: true}); !errors.Is(err, blob.ErrExists) {
		t.Fatalf("%v, want ErrExists", err)
	}
}

func TestFileSystemStaysInside(t *testing.T) {
	dir := t.TempDir()
	outside := filepath.Join(dir, "outside")
	bucket := filepath.Join(dir, "bucket")
	for _, d := range []string{outside, bucket} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(bucket, "link")); err != nil {
		t.Fatal(err)
	}
	b, err := blob.OpenFileSystem(bucket)
	if err != nil {
		t.Fatal(err)
	}
	if body, _, err := b.Get(t.Context(), "link/secret"); err == nil {
		body.Close()
		t.Error("Get followed a symbolic link out of the bucket")
	}
	if _, err := b.Put(t.Context(), "link/new", strings.NewReader("x"), blob.PutOptions{}); err == nil {
		t.Error("Put followed a symbolic link out of the bucket")
	}
}

func TestFileSystemClearsWhatDeadWritersLeft(t *testing.T) {
	dir := t.TempDir()
	if _, err := blob.OpenFileSystem(dir); err != nil {
		t.Fatal(err)
	}
	old, fresh := filepath.Join(dir, ".incoming", "old"), filepath.Join(dir, ".incoming", "fresh")
	for _, name := range []string{old, fresh} {
		if err := os.WriteFile(name, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	yesterday := time.Now().Add(-25 * time.Hour)
	if err := os.Chtimes(old, yesterday, yesterday); err != nil {
		t.Fatal(err)
	}
	if _, err := blob.OpenFileSystem(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(old); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the old body is still there: %v", err)
	}
	if _, err := os.Stat(fresh); err != nil {
		t.Errorf("a body that may still be on its way is gone: %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	for _, raw := range []string{
		"", "/dir", "file://host/dir", "file:///dir?x=1", "mem://name", "gs://bucket", "s3://", "s3://b?unknown=1",
		"s3://b?path_style=perhaps", "s3://b?endpoint=nowhere", "s3://b?region=a&region=b", "s3://b/../up?region=x", "s3://b/%zz",
		"s3://b?encryption=rot13", "s3://b?encryption=AES256&kms_key=k", "s3://b?part_size=1048576", "s3://b?part_size=x", "s3://b?parts_from=-1",
		"s3://b?answer_timeout=soon",
		"s3://id:hunter2@b", "s3://b?region=x&endpoint=" + url.QueryEscape("http://id:hunter2@127.0.0.1:1"),
	} {
		b, err := blob.Open(t.Context(), raw)
		if err == nil {
			t.Errorf("%q opened %v", raw, b)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error repeats a secret: %v", err)
		}
	}
}
