// Package archiver is the service that copies topics to Parquet objects in a bucket.
//
// Promise: who lists the bucket finds every committed record of a topic in exactly one object, up to the group's committed
// offset of its partition, whatever crashed on the way. An object holds the contiguous range [first, next) of one partition;
// first is the committed offset and next becomes it. Every committed range has one event in archive.files. Nothing in the
// bucket is ever replaced: the first successful upload decides where a range ends, and everybody else adopts it.
//
// Inputs: the configured topics, read committed. Outputs: objects (see pkg/archive/FORMAT.md), archive.files, and <topic>.dlq for
// records that their schema cannot decode, counted in their range.
//
// How a range is archived: its records are spooled to a local file; at the cut (number, bytes, record time, a later hour,
// idleness) the spool is encoded in one go, straight into an upload under a name that first alone decides, which succeeds only if there
// is no such object; then one transaction writes the manifest event and the dead letters, and commits the partition's offset. The spool
// is worth nothing: after any trouble it is thrown away and read again from the committed offset.
//
// Concurrency: an Archiver is run once, by Run. Its partitions are encoded and uploaded in parallel, and committed one
// after the other, between two polls, while no rebalance can happen.
//
// Topics are named, or found by patterns; only those with cleanup=delete and a dead-letter topic are taken. Records that wait for
// too much of their topic's retention raise an alarm, and the retention where that is allowed. Backfill archives holes below the
// committed offsets. Old objects may be let go: out of the manifest first, out of the bucket a day later; a mark in the bucket then says up to where. Parts
// of uploads that died are the bucket's to remove: it needs a lifecycle rule AbortIncompleteMultipartUpload, which "databus init" sets (deploy/k8s/README.md).
//
// What all objects of a topic have in common, such as the column by which rows are sorted, is frozen in its _layout.json before
// the first of them; settings that differ from it stop the topic's partitions.
//
// Memory: records wait on disk. Each of Workers holds one row group, encoded, and a few parts of its upload (see blob.S3), and where
// rows are sorted, or an object with sorted rows is adopted, one row group's records beside that: 32 MiB and a record. Nothing of this
// is held between two cuts.
//
// Failure: bucket, registry or disk out of order: the partition waits and tries again, reading no further. Offsets that
// the topic no longer has, an object that is not what it should be, or schemas that do not fit together stop that
// partition alone, with a hint, until the next assignment; nothing is ever skipped. A fenced instance, or a commit
// whose outcome is unknown, ends Run with an error: the next start reads from the committed offset.
package archiver
