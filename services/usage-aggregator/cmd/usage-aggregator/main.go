// Command usage-aggregator runs the usage-aggregator service; see package databus/services/usage-aggregator.
package main

import (
	"databus/pkg/service"
	usageaggregator "databus/services/usage-aggregator"
)

func main() { service.Main(usageaggregator.Definition()) }
