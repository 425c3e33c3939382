// Command ingest runs the ingest service; see package databus/services/ingest.
package main

import (
	"databus/pkg/service"
	"databus/services/ingest"
)

func main() { service.Main(ingest.Definition()) }
