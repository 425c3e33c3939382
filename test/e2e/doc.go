// Package e2e plays Databus's main job from outside: it builds the programs, runs them as processes of their own, and
// looks at what came out through the API, Kafka, the bucket and the database. It knows nothing of a program's inside.
//
//	embedded_test.go  the demo on embedded parts, with and without restarts of every service: equal outcomes
//	servers_test.go   the same on real servers with the FEBRL data; Java, DuckDB and the driver read it (tag servers)
//	kill_test.go      kill -9 ten times in the middle of a load: nothing lost, nothing double
//	bad_test.go       undecodable and foreign records, unknown schema ids
//	refuse_test.go    wrong topics, a registry that is away, wrong input
//
// The rest are what they share: programs, processes, running Databuses, topics and the archive.
package e2e
