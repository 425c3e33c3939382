//go:build prove

package state

const crashPoints = 10_000
