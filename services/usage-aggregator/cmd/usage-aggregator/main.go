// Command usage-aggregator runs the usage-aggregator service; see package databus/services/usage-aggregator.
package main

import (
	"os"
	"runtime/debug"

	"databus/pkg/service"
	usageaggregator "databus/services/usage-aggregator"
)

func main() {
	if os.Getenv("GOGC") == "" {
		// What stays in memory holds few pointers, and is looked through quickly: room for less than as much again is enough.
		debug.SetGCPercent(75)
	}
	service.Main(usageaggregator.Definition())
}
