// Package rebuilder is the service that builds a new database version from the archive.
//
// Promise: a completed rebuild has put into a keyspace of its own exactly the rows that an applier would have written
// which started with nothing at offset 0, went to the frontier and used the same graph and the data keys as they are
// now: every column of the three tables, the request ids that count as recent included. The frontier is, per
// partition of databus.records, the end of the archive when the job was planned. The version is announced as LOADED
// before the job's event COMPLETED is said; nobody else writes or reads the keyspace before.
//
//	rebuild.requests -> plan: frontier, graph; version BUILDING; keyspace
//	  stage 0, one task a partition: pass 1 chooses each record's newest version, pass 2 opens and writes those
//	  stage 1, one task: count the rows; version LOADED
//	-> rebuild.events
//
// Concurrency: any number of instances; jobs and tasks are shared as pkg/job says. Tasks may run again or twice at once:
// they write the same rows.
//
// Failure: a gap in the archive, an object that is not as it should be, a graph or a serving version that does not exist,
// or a keyspace with other rows than were written fail the job, with the reason in its last event. What a failed or
// cancelled job has left, its keyspace, is dropped, and then its version is announced as FAILED. Records that can never
// be opened are counted as dead, as the applier does. A record of which the newest version's key is revoked is dropped and
// counted as shredded: its marker keeps version and request ids, as everywhere. Keys that are revoked while a job runs are
// the sweep's, which ingest begins once the version is on STANDBY.
//
// Memory: pass 1 keeps about 200 bytes for each record key of a partition, 24 more for each of its versions within 24
// hours before the newest, and 8 for each version that was refused by a repeat or came after 16 others within 24
// hours. With Config.Tasks partitions at a time this must fit, and for each 32 MiB of archived records
// where the archive is sorted (archiver.sort_by); sorting on disk comes with the native table writer.
package rebuilder
