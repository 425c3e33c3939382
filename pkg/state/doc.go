// Package state keeps the rows of a stateful service on local disk, in one Pebble database per instance.
//
// Promise: the rows of a partition, the positions in the changelog, and in the topics that hold rows, up to which they are
// complete and the input offsets that they stand for are written in one atomic batch. So the database is at any time, and after any crash, exactly the
// state that some committed transaction left: it may lie behind Kafka, it is never ahead of it and never a mixture.
//
// Batches are not synced: the changelog in Kafka is the durable copy. A crash of the process or of the machine may lose
// the newest batches, oldest kept first, and with them their positions; what is lost is replayed from the changelog.
//
// Layout: every row key starts with its partition, so that a partition is dropped with one range deletion.
//
//	DIR/STATE          format version, service and instance; written last when the directory is made
//	DIR/db/            Pebble
//	  'p' partition                      -> Position (JSON)
//	  'r' partition store 0x00 row key   -> row          (partition: 4 bytes, big-endian)
//
// Concurrency: a DB may be used by any number of goroutines; a Reader and a Batch by one at a time.
//
// Failure: a directory of another service or instance, or of a newer format, is refused and left untouched. A directory
// without STATE comes from a crash inside the first open and is made anew; so is one without the manifest that Pebble's
// marker names, which a power failure may leave where the file system does not keep the order of directory entries. An error of a read or a write says that the
// database is unusable; delete the directory and let the service restore it.
package state
