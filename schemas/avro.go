package schemas

import (
	"embed"
	"fmt"
	"io/fs"
	"sort"
	"strings"
)

//go:embed avro/*.avsc
var files embed.FS

// Schemas returns the names of all schemas: the names of the files in avro/ without ".avsc", sorted.
func Schemas() []string {
	entries, err := fs.ReadDir(files, "avro")
	if err != nil {
		panic(fmt.Sprintf("reading embedded schemas: %v", err)) // the directory is compiled in
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), ".avsc"))
	}
	sort.Strings(names)
	return names
}

// Avro returns the Avro schema (JSON) with the given name, such as "usage_event".
func Avro(name string) (string, bool) {
	b, err := files.ReadFile("avro/" + name + ".avsc")
	return string(b), err == nil
}
