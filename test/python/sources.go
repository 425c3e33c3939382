// Package python holds the scripts that check what Databus writes with DuckDB and pyarrow, and the pins of what they need.
// Package pytool runs them.
package python

import "embed"

// Sources are the scripts and the requirement files.
//
//go:embed *.py *.txt
var Sources embed.FS
