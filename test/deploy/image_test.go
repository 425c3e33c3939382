//go:build servers

package deploy

import (
	"debug/elf"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/compose-spec/compose-go/v2/types"
	corev1 "k8s.io/api/core/v1"
)

// images builds each image's binary once for all tests.
type images struct {
	once sync.Once
	err  error
	tree string // what the Dockerfile copies, without what .dockerignore leaves out
	run  string // the RUN line that compiles
	from stage

	mu    sync.Mutex
	built map[string]string // by build arguments
}

var shared images

func (im *images) prepare(t *testing.T) {
	t.Helper()
	im.once.Do(func() { im.err = im.open() })
	if im.err != nil {
		t.Fatal(im.err)
	}
}

func (im *images) open() error {
	stages, err := parseDockerfile(filepath.Join(root(), "deploy", "Dockerfile"))
	if err != nil {
		return err
	}
	im.from, im.built = stages[0], map[string]string{}
	for _, line := range im.from.of("RUN") {
		if !strings.Contains(line, "go build") {
			continue
		}
		// Mounts are the builder's own.
		for strings.HasPrefix(line, "--") {
			_, line, _ = strings.Cut(line, " ")
			line = strings.TrimSpace(line)
		}
		im.run = line
	}
	if im.run == "" {
		return fmt.Errorf("the Dockerfile's first stage has no RUN with go build")
	}
	if im.tree, err = os.MkdirTemp("", "databus-image-"); err != nil {
		return err
	}
	for _, c := range im.from.of("COPY") {
		from, to, _ := strings.Cut(c, " ")
		if from != to || !strings.HasSuffix(from, "/") {
			return fmt.Errorf("COPY %s: a directory under its own name is what this test understands", c)
		}
		if err := copyTree(filepath.Join(root(), from), filepath.Join(im.tree, to)); err != nil {
			return err
		}
	}
	return nil
}

// copyTree leaves out what .dockerignore's patterns for single files and directories name.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		switch {
		case d.IsDir() && d.Name() == "testdata":
			return filepath.SkipDir
		case d.IsDir():
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		case !d.Type().IsRegular(), strings.HasSuffix(path, "_test.go"):
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), b, 0o644)
	})
}

// binary compiles as the Dockerfile's RUN line says, with the given build arguments.
func (im *images) binary(t *testing.T, given map[string]string) string {
	t.Helper()
	im.prepare(t)
	im.mu.Lock()
	defer im.mu.Unlock()
	key := fmt.Sprint(given)
	if path, ok := im.built[key]; ok {
		return path
	}
	args, err := im.from.args(given)
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(im.tree, fmt.Sprintf("service-%d", len(im.built)))
	line := os.Expand(strings.ReplaceAll(im.run, "/out/service", out), func(n string) string { return args[n] })
	cmd := exec.CommandContext(t.Context(), "sh", "-euc", line)
	cmd.Dir = im.tree
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s: %v\n%s", given, line, err, text)
	}
	im.built[key] = out
	return out
}

func TestMain(m *testing.M) {
	code := m.Run()
	if shared.tree != "" {
		_ = os.RemoveAll(shared.tree)
	}
	os.Exit(code)
}

// TestImagesCompile compiles what each image holds, from what the Dockerfile copies alone, and checks that it is static:
// the last stage has no loader and no C library.
func TestImagesCompile(t *testing.T) {
	p := compose(t)
	for _, name := range append(services(), steps()...) {
		t.Run(name, func(t *testing.T) {
			path := shared.binary(t, arguments(p.Services[name]))
			f, err := elf.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			for _, prog := range f.Progs {
				if prog.Type == elf.PT_INTERP {
					t.Error("not static")
				}
			}
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(b), shared.tree) {
				t.Error("it holds paths of the machine that built it; -trimpath is missing")
			}
		})
	}
}

// arguments are the build arguments that compose gives.
func arguments(s types.ServiceConfig) map[string]string {
	given := map[string]string{}
	for k, v := range s.Build.Args {
		given[k] = *v
	}
	return given
}

// TestLastStage checks what the Dockerfile says about the image itself.
func TestLastStage(t *testing.T) {
	stages, err := parseDockerfile(filepath.Join(root(), "deploy", "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	last := stages[len(stages)-1]
	if !strings.Contains(last.base, "distroless/static") || !strings.HasSuffix(last.base, ":nonroot") {
		t.Errorf("the last stage is %s", last.base)
	}
	if user := last.of("USER"); len(user) != 1 || strings.HasPrefix(user[0], "0") || strings.HasPrefix(user[0], "root") {
		t.Errorf("the image runs as %v", user)
	}
	if entry := last.of("ENTRYPOINT"); !slices.Equal(entry, []string{`["/service"]`}) {
		t.Errorf("entrypoint %v", entry)
	}
	if base := stages[0].base; !strings.HasPrefix(base, "golang:1.26.") {
		t.Errorf("the first stage is %s, not a pinned Go", base)
	}
}

// validate asks a service's own binary about a configuration.
func validate(t *testing.T, service string, environ []string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), shared.binary(t, map[string]string{"SERVICE": service}), append(args, "--validate")...)
	cmd.Env = environ
	if text, err := cmd.CombinedOutput(); err != nil || string(text) != "ok\n" {
		t.Errorf("%s: %v\n%s", service, err, text)
	}
}

// TestComposeConfigurations: every service accepts what compose gives it.
func TestComposeConfigurations(t *testing.T) {
	p := compose(t)
	for _, name := range services() {
		t.Run(name, func(t *testing.T) {
			environ := []string{}
			for k, v := range p.Services[name].Environment {
				environ = append(environ, k+"="+*v)
			}
			validate(t, name, environ)
		})
	}
}

// TestKubernetesConfigurations: every Deployment's container accepts its config map and its environment.
func TestKubernetesConfigurations(t *testing.T) {
	r := example(t)
	for _, d := range r.deployments {
		t.Run(d.Name, func(t *testing.T) {
			spec := d.Spec.Template.Spec
			dir := t.TempDir()
			for _, v := range spec.Volumes {
				if v.ConfigMap == nil {
					continue
				}
				i := slices.IndexFunc(r.configMaps, func(m *corev1.ConfigMap) bool { return m.Name == v.ConfigMap.Name })
				for file, text := range r.configMaps[i].Data {
					if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
						t.Fatal(err)
					}
				}
			}
			var environ, args []string
			for _, e := range spec.Containers[0].Env {
				value := e.Value
				if e.ValueFrom != nil {
					value = d.Name // the pod's name or the instance label
				}
				environ = append(environ, e.Name+"="+value)
			}
			for _, a := range spec.Containers[0].Args {
				args = append(args, strings.Replace(a, "/etc/databus/", dir+"/", 1))
			}
			if len(args) != 1 {
				t.Errorf("%s: arguments %v", d.Name, args)
			}
			validate(t, d.Labels[nameLabel], environ, args...)
		})
	}
}

const (
	kmsURI      = "aws-kms://arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
	kmsEndpoint = "https://vpce-1.kms.eu-central-1.vpce.amazonaws.com"
)

// TestKMSAndProfilesCanBeSetUp: the settings that an operator finds empty reach every service, which takes them when they are
// filled in.
func TestKMSAndProfilesCanBeSetUp(t *testing.T) {
	p := compose(t, "DATABUS_KEYS__KMS_URI="+kmsURI, "DATABUS_KEYS__KMS_ENDPOINT="+kmsEndpoint, "DATABUS_HTTP__PROFILE=true")
	for _, name := range slices.Concat(services(), steps()) {
		var environ []string
		for k, v := range p.Services[name].Environment {
			environ = append(environ, k+"="+*v)
		}
		for _, want := range []string{"DATABUS_KEYS__KMS_URI=" + kmsURI, "DATABUS_KEYS__KMS_ENDPOINT=" + kmsEndpoint, "DATABUS_HTTP__PROFILE=true"} {
			if !slices.Contains(environ, want) {
				t.Errorf("compose: %s does not get %s", name, want)
			}
		}
		if !slices.Contains(steps(), name) {
			validate(t, name, environ)
		}
	}
	text := ""
	for _, m := range example(t).configMaps {
		text += m.Data["databus.yaml"]
	}
	for empty, filled := range map[string]string{`kms_uri: ""`: "kms_uri: " + kmsURI, `kms_endpoint: ""`: "kms_endpoint: " + kmsEndpoint, "profile: false": "profile: true"} {
		if strings.Count(text, empty) != 1 {
			t.Errorf("the config map does not have %s", empty)
		}
		text = strings.Replace(text, empty, filled, 1)
	}
	file := filepath.Join(t.TempDir(), "databus.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range services() {
		validate(t, name, []string{"DATABUS_INSTANCE__ID=0"}, "--config="+file)
	}
	if err := os.WriteFile(file, []byte(strings.Replace(text, "key/1234", "alias/1234", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if refused(t, services()[0], "--config="+file) == "" {
		t.Error("an alias in place of a key's id is taken, so this test shows nothing")
	}
}

// refused is what a service says about a configuration that it refuses.
func refused(t *testing.T, service string, args ...string) string {
	t.Helper()
	text, err := exec.CommandContext(t.Context(), shared.binary(t, map[string]string{"SERVICE": service}), append(args, "--validate")...).CombinedOutput()
	if err == nil {
		return ""
	}
	return string(text)
}

// TestSteps: the tool knows the commands that compose and the job run.
func TestSteps(t *testing.T) {
	p := compose(t)
	for _, name := range steps() {
		t.Run(name, func(t *testing.T) {
			s := p.Services[name]
			cmd := exec.CommandContext(t.Context(), shared.binary(t, arguments(s)), append(slices.Clone([]string(s.Command)), "--help")...)
			if text, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("databus %s: %v\n%s", strings.Join(s.Command, " "), err, text)
			}
		})
	}
}
