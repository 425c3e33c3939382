// Package streams holds the sources of the usage aggregator's peer on Kafka Streams 4.3.1, which package
// databus/test/bench/aggregator compiles and runs.
package streams

import "embed"

// Sources are pom.xml and the Java files.
//
//go:embed pom.xml src
var Sources embed.FS
