package servers

import (
	"context"
	"embed"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"databus/test/servers/fetch"
)

// pins holds what is fetched for each server, at which version, and the files that go with it.
//
//go:embed pins
var pins embed.FS

// pin returns the content of pins/NAME; the files are compiled in, so that a missing one is a mistake in this package.
func pin(name string) []byte {
	b, err := pins.ReadFile(path.Join("pins", name))
	if err != nil {
		panic(err)
	}
	return b
}

// mavenJars returns a directory with the jars of pins/NAME/pom.xml in libs/, and the other named files of pins/NAME.
func mavenJars(ctx context.Context, cache fetch.Dir, name string, files ...string) (string, error) {
	files = append(files, "pom.xml")
	var key strings.Builder
	for _, f := range files {
		key.Write(pin(name + "/" + f))
	}
	return cache.Once(ctx, name, key.String(), func(ctx context.Context, tmp string) error {
		for _, f := range files {
			if err := os.WriteFile(filepath.Join(tmp, f), pin(name+"/"+f), 0o644); err != nil {
				return err
			}
		}
		return cache.Maven(ctx, tmp, "dependency:copy-dependencies", "-DoutputDirectory="+filepath.Join(tmp, "libs"), "-DincludeScope=runtime")
	})
}

// writeSettings writes the settings, overridden by more, one a line in order of name.
func writeSettings(file string, settings, more map[string]string, separator string) error {
	settings = maps.Clone(settings)
	maps.Copy(settings, more)
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&b, "%s%s%s\n", k, separator, settings[k])
	}
	if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
		return fmt.Errorf("writing settings: %w", err)
	}
	return nil
}
