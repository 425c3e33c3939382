// Command instance runs the archiver exactly as its own program does, but kills itself at a step of a cut that
// databus/test/crash tells it.
package main

import (
	"databus/services/archiver"
	"databus/test/crash"
)

func main() { crash.Main(archiver.Definition(), nil) }
