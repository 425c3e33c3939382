//go:build prove

package stream

const powerFailures = 300
