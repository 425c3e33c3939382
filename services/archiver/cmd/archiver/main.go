// Command archiver runs the archiver service; see package databus/services/archiver.
package main

import (
	"databus/pkg/service"
	"databus/services/archiver"
)

func main() { service.Main(archiver.Definition()) }
