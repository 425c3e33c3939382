// Command catchup runs the catchup service; see package databus/services/catchup.
package main

import (
	"databus/pkg/service"
	"databus/services/catchup"
)

func main() { service.Main(catchup.Definition()) }
