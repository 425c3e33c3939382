//go:build prove

package e2e

const subjects = 1000
