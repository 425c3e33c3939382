// Package python holds the scripts that check what Databus writes with DuckDB and pyarrow, and the pins of what they need,
// of moto (moto.txt), which is test/seal's KMS, and of the FEBRL data sets (febrl.txt). Package pytool runs and installs them.
package python

import "embed"

// Sources are the scripts and the requirement files.
//
//go:embed *.py *.txt
var Sources embed.FS
