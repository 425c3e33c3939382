// Package java holds the sources of the JVM clients that check what Databus writes with nothing of Databus in them.
// Package javatool builds and runs them.
package java

import "embed"

// Sources are pom.xml and the Java files.
//
//go:embed pom.xml src
var Sources embed.FS
