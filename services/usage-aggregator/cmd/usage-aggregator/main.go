// Command usage-aggregator runs the usage-aggregator service; see package databus/services/usage-aggregator.
package main

import (
	"os"
	"runtime/debug"

	"databus/pkg/service"
	usageaggregator "databus/services/usage-aggregator"
)

func main() {
	// Counts fill and leave the heap quickly: a third less memory costs a twentieth of the CPU time. GOGC, where it is set, wins.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
	service.Main(usageaggregator.Definition())
}
