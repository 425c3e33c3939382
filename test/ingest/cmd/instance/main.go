// Command instance runs ingest exactly as its own program does, but kills itself at a point that databus/test/crash tells it.
package main

import (
	"databus/services/ingest"
	"databus/test/crash"
)

func main() { crash.Main(ingest.Definition(), nil) }
