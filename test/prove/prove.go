// Package prove says at which size a proof runs and prints what it measured.
//
// Promise: `go test PACKAGE -args -full` runs the package's proofs in full size; without it they run small, and print no
// figures, because a small run's mean nothing.
package prove

import (
	"flag"
	"os"
	"strings"

	"databus/test/measure"
)

var full = flag.Bool("full", false, "run the proofs in full size")

// Full says whether the proofs run in full size.
func Full() bool { return *full }

// Size is the full size of something in a full run, else the small one.
func Size(small, all int) int {
	if *full {
		return all
	}
	return small
}

// Print prints figures at the end of a full run.
func Print(figures ...measure.Figure) {
	if !*full {
		return
	}
	for _, f := range figures {
		f.Print(os.Stdout)
	}
}

// Count prints a number of things at the end of a full run. The goal is the least that there must be, or none of them at all.
func Count[N int | int64](name, unit string, n, goal N) {
	Print(measure.Figure{Name: name, Value: float64(n), Unit: unit, Goal: float64(goal), AtMost: goal == 0})
}

// Name makes a part of a figure's name from what a service calls something: words of small letters, "_" between them.
func Name(s string) string {
	return strings.Join(strings.FieldsFunc(strings.ToLower(s), func(r rune) bool { return r < 'a' || r > 'z' }), "_")
}
