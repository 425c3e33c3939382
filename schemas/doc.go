// Package schemas is the contract between the services: the Avro schema of every event, and the catalogue of topics
// that carry them.
//
// Promise: a topic, its key, its partitioning, its cleanup and its schema are declared here once; topic set-up, the
// registry check, topology pictures and documentation are derived from it. Services never name a topic in any other
// way. Partition counts never change: a topic grows by a new epoch.
//
// The schemas in avro/ are the only definitions of events. Package event holds the Go types generated from them,
// package codec the wire format.
//
// Everything here is immutable and safe for concurrent use.
package schemas
