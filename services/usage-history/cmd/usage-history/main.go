// Command usage-history runs the usage-history service; see package databus/services/usage-history.
package main

import (
	"databus/pkg/service"
	usagehistory "databus/services/usage-history"
)

func main() { service.Main(usagehistory.Definition()) }
