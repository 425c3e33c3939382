//go:build !prove

package state

// crashPoints of the normal tests; `go test -tags prove` runs all of them.
const crashPoints = 400
