// Command limiter runs the limiter service; see package databus/services/limiter.
package main

import (
	"databus/pkg/service"
	"databus/services/limiter"
)

func main() { service.Main(limiter.Definition()) }
