//go:build !prove

package stream

// powerFailures of the normal tests; `go test -tags prove` runs all of them.
const powerFailures = 12
