// Package history reads a topic's past from its archive: the manifest says which objects there are, a Chain is those of one
// partition without a gap, Read gives their records back as events.
//
// Promise: a Chain covers every offset of its range, once; what its objects lack was not committed, or went to the
// dead letters and is counted. Records come in order of their offsets, resolved to the topic's current schema. Nothing is
// read around a gap: it is an error that names topic, partition and offsets.
//
// For operators: List and Scan read what the bucket alone says, a Verifier proves that nothing is missing, double or
// damaged, and a Restorer replays an archive into a topic.
//
// Concurrency: a Manifest may be used by any number of goroutines; so may a Chain, which never changes.
//
// Failure: an object that is missing, damaged or other than the manifest says ends Read with an error; whoever reads
// starts again from an offset of its choice. The registry is not asked: objects carry their schema.
package history
