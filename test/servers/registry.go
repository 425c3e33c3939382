package servers

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"databus/test/servers/fetch"
)

// confluentAPI is the path of the Confluent-compatible API.
const confluentAPI = "/apis/ccompat/v7"

// StartRegistry starts Apicurio Registry, which keeps its data in a file database in its directory. The base URL of the
// Confluent API is RegistryURL(p). Its global compatibility level is NONE: set a level per subject.
func StartRegistry(ctx context.Context, o Options) (*Process, error) {
	cache, err := fetch.Open()
	if err != nil {
		return nil, err
	}
	java, _, err := fetch.Java(ctx)
	if err != nil {
		return nil, fmt.Errorf("starting registry: %w", err)
	}
	artifact := strings.TrimSpace(string(pin("registry/artifact")))
	dist, err := cache.Once(ctx, "registry", artifact, func(ctx context.Context, tmp string) error {
		archive := filepath.Join(tmp, "dist.tar.gz")
		// Version 2.8 because it still writes the file to a place of our choice, and reads no parent POM: this one's is not published.
		err := cache.Maven(ctx, tmp, "org.apache.maven.plugins:maven-dependency-plugin:2.8:get",
			"-Dtransitive=false", "-Dartifact="+artifact, "-Ddest="+archive)
		if err != nil {
			return err
		}
		if err := fetch.Untar(archive, tmp); err != nil {
			return err
		}
		return os.Remove(archive)
	})
	if err != nil {
		return nil, err
	}
	jars, err := filepath.Glob(filepath.Join(dist, "*-runner.jar"))
	if err != nil || len(jars) != 1 {
		return nil, fmt.Errorf("starting registry: found %d runner jars in %s, expected 1; remove that directory to fetch it again", len(jars), dist)
	}

	p := &Process{Name: "registry", path: java, env: os.Environ()}
	ports, err := p.prepare(cache, o, 2)
	if err != nil {
		return nil, err
	}
	props := map[string]string{
		"quarkus.http.host":                     "127.0.0.1",
		"quarkus.http.port":                     fmt.Sprint(ports[0]),
		"quarkus.http.access-log.enabled":       "false",
		"quarkus.management.host":               "127.0.0.1", // its default is all interfaces
		"quarkus.management.port":               fmt.Sprint(ports[1]),
		"apicurio.datasource.url":               "jdbc:h2:file:" + filepath.Join(p.Dir, "registry") + ";WRITE_DELAY=0", // else kill -9 loses half a second
		"apicurio.datasource.jdbc.initial-size": "2",
		"apicurio.datasource.jdbc.min-size":     "2",
		"apicurio.datasource.jdbc.max-size":     "10",
		"java.util.logging.manager":             "org.jboss.logmanager.LogManager",
	}
	maps.Copy(props, o.Config)
	p.args = []string{"-Xms64m", "-Xmx" + orElse(o.Heap, "384m"), "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"}
	for _, k := range slices.Sorted(maps.Keys(props)) {
		p.args = append(p.args, "-D"+k+"="+props[k])
	}
	p.args = append(p.args, "-jar", jars[0])
	p.ready = func(ctx context.Context) error { return registryReady(ctx, RegistryURL(p)) }
	if err := p.start(ctx); err != nil {
		return nil, err
	}
	return p, nil
}

// RegistryURL returns the base URL of the Confluent API of a process from StartRegistry.
func RegistryURL(p *Process) string { return "http://" + p.Addr + confluentAPI }

// registryReady lists the subjects, which needs the registry's storage too.
func registryReady(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/subjects", nil)
	if err != nil {
		return fmt.Errorf("asking the registry for its subjects: %w", err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("asking the registry for its subjects: %w", err)
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("asking the registry for its subjects: %s", res.Status)
	}
	var subjects []string
	if err := json.NewDecoder(http.MaxBytesReader(nil, res.Body, 16<<20)).Decode(&subjects); err != nil {
		return fmt.Errorf("asking the registry for its subjects: %w", err)
	}
	return nil
}
