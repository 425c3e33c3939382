package main

import (
	"errors"
	"fmt"
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
)

// parts are the folders of the checkout whose packages the document lists, in its order.
var parts = []string{"schemas", "schemas/*", "pkg/*", "services/*", "cmd/*", "test/*"}

// packageTable is a Markdown table of the packages below root with the first sentence of their documentation: a
// package describes itself in one place only.
func packageTable(root string) (string, error) {
	var b strings.Builder
	b.WriteString("| package | what it is |\n|---|---|\n")
	for _, part := range parts {
		dirs, err := filepath.Glob(filepath.Join(root, filepath.FromSlash(part)))
		if err != nil {
			return "", fmt.Errorf("listing %s: %w", part, err)
		}
		slices.Sort(dirs)
		for _, dir := range dirs {
			sentence, err := synopsis(dir)
			if err != nil {
				return "", err
			}
			path, err := filepath.Rel(root, dir)
			if err != nil {
				return "", fmt.Errorf("naming %s: %w", dir, err)
			}
			if sentence != "" {
				fmt.Fprintf(&b, "| `%s` | %s |\n", filepath.ToSlash(path), sentence)
			}
		}
	}
	return b.String(), nil
}

// synopsis returns what a package says about itself, without its name; empty where there is no package.
func synopsis(dir string) (string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return "", fmt.Errorf("listing %s: %w", dir, err)
	}
	for _, file := range files {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments|parser.PackageClauseOnly)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("reading the package comment in %s: %w", file, err)
		}
		if text := comment(f); text != "" {
			return text, nil
		}
	}
	return "", nil
}

func comment(f *ast.File) string {
	if f.Doc == nil {
		return ""
	}
	text := f.Doc.Text()
	if first, rest, ok := strings.Cut(text, "\n"); ok && strings.HasPrefix(first, "Code generated ") {
		text = rest
	}
	text = (&doc.Package{}).Synopsis(text)
	for _, prefix := range []string{"Package " + f.Name.Name + " is ", "Package " + f.Name.Name + " ", "Command databus is "} {
		if rest, ok := strings.CutPrefix(text, prefix); ok {
			text = rest
			break
		}
	}
	return strings.ReplaceAll(text, "|", `\|`)
}
