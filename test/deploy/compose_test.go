package deploy

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
)

// compose reads the file with these variables, as VAR=value. Without any it must stand on its own.
func compose(t *testing.T, environ ...string) *types.Project {
	t.Helper()
	options, err := cli.NewProjectOptions([]string{filepath.Join(root(), "docker-compose.yml")}, cli.WithWorkingDirectory(root()), cli.WithEnv(environ))
	if err != nil {
		t.Fatal(err)
	}
	project, err := options.LoadProject(t.Context())
	if err != nil {
		t.Fatalf("compose refuses the file: %v", err)
	}
	return project
}

// steps are the containers that run once.
func steps() []string { return []string{"init"} }

func TestComposeServices(t *testing.T) {
	p := compose(t)
	wanted := slices.Concat(services(), steps(), []string{"kafka", "registry", "cassandra", "s3"})
	for _, name := range wanted {
		if _, ok := p.Services[name]; !ok {
			t.Errorf("service %s is missing", name)
		}
	}
	if len(p.Services) != len(wanted) {
		t.Errorf("services %v, want %v", p.ServiceNames(), wanted)
	}
	for name, s := range p.Services {
		// An image that is not built here is pinned; "latest" and no tag at all are not.
		tag := s.Image[strings.LastIndexByte(s.Image, ':')+1:]
		if s.Build == nil && (!strings.Contains(s.Image, ":") || strings.Trim(tag, "v.0123456789") != "" || strings.Count(tag, ".") < 2) {
			t.Errorf("%s: image %q is not pinned to a full version", name, s.Image)
		}
		if s.Privileged {
			t.Errorf("%s is privileged", name)
		}
		for _, port := range s.Ports {
			if port.HostIP != "127.0.0.1" {
				t.Errorf("%s: port %s is open to the network", name, port.Published)
			}
		}
		for _, v := range s.Volumes {
			if v.Type == types.VolumeTypeBind {
				if _, err := os.Stat(v.Source); err != nil {
					t.Errorf("%s: mounted file: %v", name, err)
				}
			}
		}
		if slices.Contains(steps(), name) {
			continue
		}
		if s.HealthCheck == nil || s.HealthCheck.Disable || len(s.HealthCheck.Test) < 2 || s.HealthCheck.Interval == nil {
			t.Errorf("%s has no healthcheck", name)
		}
		if s.Restart == "" {
			t.Errorf("%s does not come back after a failure", name)
		}
	}
}

// TestComposeDatabus checks the seven services: built from the one Dockerfile, started after the preparation, each with
// a stable id and a volume of its own.
func TestComposeDatabus(t *testing.T) {
	p := compose(t)
	ids, volumes := map[string]string{}, map[string]string{}
	for _, name := range services() {
		s := p.Services[name]
		if s.Build == nil || s.Build.Dockerfile != "deploy/Dockerfile" || s.Build.Args["SERVICE"] == nil || *s.Build.Args["SERVICE"] != name {
			t.Errorf("%s is not built by deploy/Dockerfile with SERVICE=%s", name, name)
		}
		if d, ok := s.DependsOn["init"]; !ok || d.Condition != types.ServiceConditionCompletedSuccessfully {
			t.Errorf("%s does not wait for init", name)
		}
		id := s.Environment["DATABUS_INSTANCE__ID"]
		if id == nil || *id == "" || ids[*id] != "" {
			t.Errorf("%s has no instance id of its own", name)
		} else {
			ids[*id] = name
		}
		own := ""
		for _, v := range s.Volumes {
			if v.Target == "/var/lib/databus" {
				own = v.Source
			}
		}
		if own == "" || volumes[own] != "" {
			t.Errorf("%s has no state volume of its own: %q", name, own)
		}
		volumes[own] = name
		if !s.ReadOnly || !slices.Contains(s.CapDrop, "ALL") {
			t.Errorf("%s may write its image or has capabilities", name)
		}
		if s.StopGracePeriod == nil {
			t.Errorf("%s: docker would kill it after 10 s, before it has drained", name)
		}
		if got := strings.Join(s.HealthCheck.Test, " "); got != "CMD /service --probe" {
			t.Errorf("%s: healthcheck %s", name, got)
		}
	}
	for _, dependency := range []string{"kafka", "registry", "cassandra", "s3"} {
		if !reaches(p, "init", dependency) {
			t.Errorf("init does not wait for a healthy %s", dependency)
		}
	}
}

// reaches reports whether a service waits, directly or through others, until another is healthy.
func reaches(p *types.Project, from, to string) bool {
	for name, d := range p.Services[from].DependsOn {
		if name == to {
			return d.Condition == types.ServiceConditionHealthy
		}
		if reaches(p, name, to) {
			return true
		}
	}
	return false
}

func TestComposeRefusesNonsense(t *testing.T) {
	path := filepath.Join(t.TempDir(), "docker-compose.yml")
	b, err := os.ReadFile(filepath.Join(root(), "docker-compose.yml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(b), "healthcheck:", "healthchekc:", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	options, err := cli.NewProjectOptions([]string{path})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := options.LoadProject(t.Context()); err == nil {
		t.Error("a misspelt key is accepted, so this package's other tests show nothing")
	}
}
