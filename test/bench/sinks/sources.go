// Package sinks holds the archiver's peers on the JVM, which package databus/test/bench/archiver builds and runs: Kafka Connect
// 4.3.1 with Apache Iceberg's sink 1.12.0, of which there is only the list of jars, and a consumer written for the
// comparison with parquet-java.
package sinks

import "embed"

// Sources are pom.xml and the Java files.
//
//go:embed pom.xml src
var Sources embed.FS
