// Package architecture holds the rules that the compiler cannot see: who may import whom, which names say nothing, which
// topics exist.
package architecture

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"databus/schemas"
)

// A file is a Go source with its place in the tree.
type file struct {
	path string // relative to the repository's root, with slashes
	ast  *ast.File
}

// root is the repository's root: the tests run in test/architecture.
const root = "../.."

func sources(t *testing.T) []file {
	t.Helper()
	var files []file
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), ".") && d.Name() != ".." {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		files = append(files, parse(t, filepath.ToSlash(rel), string(b)))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 100 {
		t.Fatalf("only %d Go files were found below %s", len(files), root)
	}
	return files
}

func parse(t *testing.T, path, text string) file {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), path, text, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	return file{path, f}
}

// A rule returns what is wrong with a file.
type rule struct {
	name  string
	check func(file) []string
	// breaks is a file that the rule must refuse: a rule that cannot fail is no rule.
	breaksPath, breaks string
}

var rules = []rule{
	{"services do not import services", servicesApart, "services/ingest/x.go", "package ingest\nimport _ \"databus/services/limiter\"\n"},
	{"packages do not import services", servicesApart, "pkg/stream/x.go", "package stream\nimport _ \"databus/services/limiter\"\n"},
	{"schemas import nothing of ours", schemasAlone, "schemas/codec/x.go", "package codec\nimport _ \"databus/pkg/stream\"\n"},
	{"no package is a drawer", noDrawers, "pkg/util/x.go", "package util\n"},
	{"production code does not use hamba/avro", noHamba, "pkg/archive/x.go", "package archive\nimport _ \"github.com/hamba/avro/v2\"\n"},
	{"every topic is in the catalogue", topicsKnown, "pkg/stream/x.go", "package stream\nconst t = \"usage.evnts\"\n"},
	{"no test is skipped", noSkips, "pkg/stream/x_test.go", "package stream\nfunc f(t interface{ Skip(...any) }) { t.Skip() }\n"},
}

func TestRules(t *testing.T) {
	files := sources(t)
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			for _, f := range files {
				for _, wrong := range r.check(f) {
					t.Errorf("%s: %s", f.path, wrong)
				}
			}
			if len(r.check(parse(t, r.breaksPath, r.breaks))) == 0 {
				t.Errorf("the rule accepts what it must refuse:\n%s", r.breaks)
			}
		})
	}
}

func imports(f file) []string {
	var paths []string
	for _, i := range f.ast.Imports {
		p, _ := strconv.Unquote(i.Path.Value)
		paths = append(paths, p)
	}
	return paths
}

// service returns the service that a path or import belongs to, or "".
func service(path string) string {
	rest, ok := strings.CutPrefix(path, "services/")
	if !ok {
		return ""
	}
	name, _, _ := strings.Cut(rest, "/")
	return name
}

// servicesApart: only cmd/databus composes services, and only test looks at all of them.
func servicesApart(f file) (wrong []string) {
	if strings.HasPrefix(f.path, "cmd/databus/") || strings.HasPrefix(f.path, "test/") {
		return nil
	}
	for _, p := range imports(f) {
		if s := service(strings.TrimPrefix(p, "databus/")); s != "" && s != service(f.path) {
			wrong = append(wrong, "imports service "+s+"; services meet only in topics")
		}
	}
	return wrong
}

func schemasAlone(f file) (wrong []string) {
	if !strings.HasPrefix(f.path, "schemas/") {
		return nil
	}
	for _, p := range imports(f) {
		if strings.HasPrefix(p, "databus/") && !strings.HasPrefix(p, "databus/schemas") {
			wrong = append(wrong, "imports "+p)
		}
	}
	return wrong
}

func noDrawers(f file) []string {
	if slices.Contains([]string{"util", "utils", "common", "helper", "helpers", "misc", "types", "shared", "base"}, strings.TrimSuffix(f.ast.Name.Name, "_test")) {
		return []string{"package " + f.ast.Name.Name + " says nothing about what it is for"}
	}
	return nil
}

func noHamba(f file) (wrong []string) {
	if strings.HasPrefix(f.path, "test/") {
		return nil
	}
	for _, p := range imports(f) {
		if strings.HasPrefix(p, "github.com/hamba/avro") || strings.HasPrefix(p, "github.com/gocql/") {
			wrong = append(wrong, "imports "+p+"; see docs/adr")
		}
	}
	return wrong
}

// topicName is what a topic of one of our families looks like.
var topicName = regexp.MustCompile(`^(identity|databus|archive|rebuild|catchup|usage|keys)\.[a-z][a-z-]*(\.dlq)?$`)

// fileName is what the name of one of our files looks like.
var fileName = regexp.MustCompile(`\.(json|yaml|log)$`)

// topicsKnown looks at production code; tests name topics that do not exist on purpose.
func topicsKnown(f file) (wrong []string) {
	if strings.HasSuffix(f.path, "_test.go") {
		return nil
	}
	for _, s := range literals(f) {
		if !topicName.MatchString(s) || fileName.MatchString(s) {
			continue
		}
		if _, ok := schemas.Lookup(s); !ok {
			wrong = append(wrong, fmt.Sprintf("%q looks like a topic that is not in the catalogue", s))
		}
	}
	return wrong
}

// literals returns the string literals of a file but those of import lines. This package's own are examples.
func literals(f file) (found []string) {
	if strings.HasPrefix(f.path, "test/architecture/") {
		return nil
	}
	ast.Inspect(f.ast, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.ImportSpec:
			return false
		case *ast.BasicLit:
			if n.Kind == token.STRING {
				if s, err := strconv.Unquote(n.Value); err == nil {
					found = append(found, s)
				}
			}
		}
		return true
	})
	return found
}

// noSkips: a skipped test reads as passed.
func noSkips(f file) (wrong []string) {
	if !strings.HasSuffix(f.path, "_test.go") {
		return nil
	}
	ast.Inspect(f.ast, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok && slices.Contains([]string{"Skip", "Skipf", "SkipNow"}, sel.Sel.Name) {
			wrong = append(wrong, "calls "+sel.Sel.Name)
		}
		return true
	})
	return wrong
}
