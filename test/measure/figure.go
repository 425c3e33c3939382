// Package measure prints the figures of proofs and benchmarks, each beside its goal.
//
// Promise: every figure is one line "figure: NAME VALUE UNIT (goal GOAL)", with MISSED behind it where the goal was. Figures
// are pure functions, safe for any number of goroutines; a Machine is for one.
package measure

import (
	"fmt"
	"io"
	"slices"
)

// Figure is one result with its goal.
type Figure struct {
	Name  string
	Value float64
	Unit  string
	Goal  float64
	// AtMost says that the goal is an upper bound; else it is a lower one.
	AtMost bool
	// None says that there is no goal.
	None bool
}

// Print writes the line that everybody greps for. A missed goal is said, not hidden.
func (f Figure) Print(w io.Writer) {
	value := fmt.Sprintf("%.3g", f.Value)
	switch {
	case f.Value >= 1000:
		value = fmt.Sprintf("%.0f", f.Value)
	case f.Value > 0.99 && f.Value < 1: // a share that is nearly everything is not rounded to it
		value = fmt.Sprintf("%.5f", f.Value)
	}
	if f.None {
		fmt.Fprintf(w, "figure: %s %s %s\n", f.Name, value, f.Unit)
		return
	}
	missed := ""
	if f.AtMost && f.Value > f.Goal || !f.AtMost && f.Value < f.Goal {
		missed = " MISSED"
	}
	fmt.Fprintf(w, "figure: %s %s %s (goal %g)%s\n", f.Name, value, f.Unit, f.Goal, missed)
}

// Median of some values; 0 for none.
func Median(values []float64) float64 {
	v := slices.Sorted(slices.Values(values))
	switch n := len(v); {
	case n == 0:
		return 0
	case n%2 == 1:
		return v[n/2]
	default:
		return (v[n/2-1] + v[n/2]) / 2
	}
}

// Quantile returns the value below which a share of all values lies; values must be sorted and not empty.
func Quantile(values []float64, share float64) float64 {
	return values[min(len(values)-1, int(share*float64(len(values))))]
}
