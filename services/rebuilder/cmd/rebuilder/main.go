// Command rebuilder runs the rebuilder service; see package databus/services/rebuilder.
package main

import (
	"databus/pkg/service"
	"databus/services/rebuilder"
)

func main() { service.Main(rebuilder.Definition()) }
