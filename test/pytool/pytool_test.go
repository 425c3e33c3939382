//go:build servers

package pytool

import (
	"bytes"
	"encoding/csv"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/parquet-go/parquet-go"

	"databus/test/servers"
)

func TestMain(m *testing.M) { servers.Main(m) }

type row struct {
	Account string `parquet:"account,zstd"`
	N       int64  `parquet:"n,zstd"`
}

func parquetFile(t *testing.T, rows int) []byte {
	t.Helper()
	var b bytes.Buffer
	w := parquet.NewGenericWriter[row](&b)
	for i := range rows {
		if _, err := w.Write([]row{{Account: "a", N: int64(i * 7919)}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func check(t *testing.T, c Counts, err error, paths ...string) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if c.Rows != 1010 || len(c.Files) != 2 || c.Files[0].Rows != 1000 || c.Files[1].Rows != 10 {
		t.Fatalf("counted %+v", c)
	}
	for i, p := range paths {
		if c.Files[i].Path != p {
			t.Errorf("file %d is %s, want %s", i, c.Files[i].Path, p)
		}
	}
	if cols := c.Files[0].Columns; len(cols) != 2 || cols["account"] != "VARCHAR" || cols["n"] != "BIGINT" {
		t.Errorf("columns are %v", cols)
	}
}

func TestCountDirAndS3(t *testing.T) {
	files := map[string][]byte{
		"archive/t/dt=2026-01-02/hr=03/t+0+1.parquet": parquetFile(t, 1000),
		"archive/t/dt=2026-01-02/hr=04/t+0+2.parquet": parquetFile(t, 10),
		"archive/t/_layout.json":                      []byte("{}"),
	}
	dir := t.TempDir()
	for name, b := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	local, err := CountDir(t.Context(), dir)
	check(t, local, err, "archive/t/dt=2026-01-02/hr=03/t+0+1.parquet", "archive/t/dt=2026-01-02/hr=04/t+0+2.parquet")

	config := servers.S3(t)
	bucket := "pytool-" + strings.ToLower(filepath.Base(filepath.Dir(dir)))[:12] + filepath.Base(dir)
	bucket = strings.ReplaceAll(bucket, "_", "-")
	cl := config.Client()
	if _, err := cl.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: aws.String(bucket)}); err != nil {
		t.Fatal(err)
	}
	for name, b := range files {
		_, err := cl.PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String(bucket), Key: aws.String(name), Body: bytes.NewReader(b)})
		if err != nil {
			t.Fatal(err)
		}
	}
	remote, err := CountS3(t.Context(), config, bucket, "archive/t")
	check(t, remote, err, "archive/t/dt=2026-01-02/hr=03/t+0+1.parquet", "archive/t/dt=2026-01-02/hr=04/t+0+2.parquet")
}

func TestDamagedFileIsAnError(t *testing.T) {
	dir := t.TempDir()
	b := parquetFile(t, 5000)
	for i := 4; i < 64; i++ { // the first page's header; the footer, which has the row count, stays whole
		b[i] = 0xff
	}
	if err := os.WriteFile(filepath.Join(dir, "broken.parquet"), b, 0o644); err != nil {
		t.Fatal(err)
	}
	if c, err := CountDir(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "broken.parquet") {
		t.Fatalf("got %+v, %v", c, err)
	}
}

func TestFEBRL(t *testing.T) {
	dir, err := FEBRL(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"dataset4a.csv", "dataset4b.csv"} {
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		rows, err := csv.NewReader(f).ReadAll()
		_ = f.Close()
		if err != nil || len(rows) != 5001 {
			t.Fatalf("%s has %d rows, %v", name, len(rows), err)
		}
	}
}
