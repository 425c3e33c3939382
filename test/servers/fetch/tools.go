package fetch

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// Maven runs mvn in dir with quiet batch settings. Only one runs at a time per cache, because Maven's local repository
// does not bear two writers. A failure is tried once more with -U: Maven remembers a failed download as "not found".
func (d Dir) Maven(ctx context.Context, dir string, args ...string) error {
	mvn, err := exec.LookPath("mvn")
	if err != nil {
		return fmt.Errorf("finding Maven: %w; install Maven 3.6 or newer (Debian: apt install maven)", err)
	}
	unlock, err := d.Lock(ctx, "maven")
	if err != nil {
		return err
	}
	defer unlock()
	base := []string{"-q", "-B"}
	for attempt := 1; ; attempt++ {
		err := Run(ctx, dir, nil, mvn, append(base, args...)...)
		if err == nil {
			return nil
		}
		if attempt == 2 || ctx.Err() != nil {
			return fmt.Errorf("%w\nnext: check that this machine reaches Maven Central, or name a mirror or proxy in ~/.m2/settings.xml", err)
		}
		base = append(base, "-U")
	}
}

// JavaProject compiles a Maven project of pom.xml and src once for each state of its sources, and returns the class path of
// its classes and of what they need at run time.
func (d Dir) JavaProject(ctx context.Context, name string, sources fs.FS) (classPath string, err error) {
	files := map[string][]byte{}
	var key strings.Builder
	err = fs.WalkDir(sources, ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		text, err := fs.ReadFile(sources, path)
		files[path] = text
		fmt.Fprintf(&key, "%s %d\n%s", path, len(text), text)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("reading the Java sources of %s: %w", name, err)
	}
	dir, err := d.Once(ctx, name, key.String(), func(ctx context.Context, tmp string) error {
		for path, text := range files {
			file := filepath.Join(tmp, filepath.FromSlash(path))
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(file, text, 0o644); err != nil {
				return err
			}
		}
		return d.Maven(ctx, tmp, "compile", "dependency:copy-dependencies",
			"-DoutputDirectory="+filepath.Join(tmp, "libs"), "-DincludeScope=runtime")
	})
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "target", "classes") + string(os.PathListSeparator) + filepath.Join(dir, "libs", "*"), nil
}

// GoInstall builds the command of module@version into dir. It needs no C compiler and ignores any workspace.
func (d Dir) GoInstall(ctx context.Context, dir, module string) error {
	goBin, err := exec.LookPath("go")
	if err != nil {
		return fmt.Errorf("finding go: %w; put the Go toolchain on PATH", err)
	}
	env := []string{"GOWORK=off", "GOFLAGS=", "GOBIN=" + dir, "CGO_ENABLED=0", "GOOS=", "GOARCH="}
	if err := Run(ctx, dir, env, goBin, "install", "-trimpath", "-ldflags=-s -w", module); err != nil {
		return fmt.Errorf("%w\nnext: check that this machine reaches the Go module proxy (go env GOPROXY)", err)
	}
	return nil
}

// Run runs a tool to its end; its error holds the command and the end of its output.
func Run(ctx context.Context, dir string, env []string, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("running %s %s: %w\n%s", filepath.Base(name), strings.Join(args, " "), err, Tail(out, 25))
	}
	return nil
}

var javaVersion = regexp.MustCompile(`version "(\d+)`)

// Java returns the java command of $JAVA_HOME or PATH and its major version, at least 17.
func Java(ctx context.Context) (path string, major int, err error) {
	const next = "install a JDK 17 (Debian: apt install openjdk-17-jdk-headless) or set JAVA_HOME to one"
	path = "java"
	if home := os.Getenv("JAVA_HOME"); home != "" {
		path = filepath.Join(home, "bin", "java")
	}
	path, err = exec.LookPath(path)
	if err != nil {
		return "", 0, fmt.Errorf("finding java: %w; %s", err, next)
	}
	out, err := exec.CommandContext(ctx, path, "-version").CombinedOutput()
	if err != nil {
		return "", 0, fmt.Errorf("asking %s for its version: %w; %s", path, err, next)
	}
	m := javaVersion.FindSubmatch(out)
	if m == nil {
		return "", 0, fmt.Errorf("reading the version of %s: no version in its output; %s", path, next)
	}
	major, err = strconv.Atoi(string(m[1]))
	if err != nil {
		return "", 0, fmt.Errorf("reading the version of %s: %w", path, err)
	}
	if major < 17 {
		return "", 0, fmt.Errorf("%s is Java %d; the servers need 17 or newer: %s", path, major, next)
	}
	return path, major, nil
}
