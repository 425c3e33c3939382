// Package embedded holds the parts that a Databus on one machine runs on: a Kafka broker in the process and a schema
// registry, both persistent. `databus dev`, the demo and tests use them; a production Databus uses real servers.
//
// # Promise
//
// A kill -9 at any point loses nothing that was acknowledged and leaves no half of a transaction: after the next start
// every transaction is whole, with its records in all partitions and its group offsets, or has no visible record.
// Schema ids, versions and levels are the same after any restart. Writes are given to the operating system before they
// are acknowledged; only BrokerOptions.SyncWrites and the registry also survive a power cut.
//
// Both types are safe for concurrent use. Both lock their directory, and refuse to start on a damaged one rather than
// start empty. After a failed start nothing runs.
//
// # The broker
//
// The broker is franz-go's kfake. This package adds what that lacks after a kill, by repairing its files before it
// starts (repair.go) and by writing down each decision to commit before it is carried out (decision.go):
//
//   - kfake only remembers in memory that it gave up a transaction that was open at a kill. The next commit of the same
//     producer id is then hidden from read_committed readers, and after another kill the abandoned records appear as
//     committed. Here the log gets the missing marker.
//   - It writes a commit as markers, offsets and producer state one after the other. A kill in between leaves half.
//   - A batch whose index entry was not written counts as outside any transaction, and shifts the flags of all later ones.
//   - It appends behind a torn tail of its state logs, which makes the next start miss everything after it.
//   - Its windows against batches sent twice are those of the last clean end.
//   - It accepts message.timestamp.type=LogAppendTime but keeps the producer's times (appendtime.go).
//
// A producer whose transaction was given up is fenced. Group members join anew after every start; static members keep
// their instance ids. Topics are created by request only.
//
// # Limits of the broker
//
//   - One broker, replication factor 1, loopback only, no quotas enforced.
//   - Neither compaction nor retention runs, although their settings are kept and described: kfake's rewrite a
//     partition in place (a kill would lose it), forget the log's start and end when every batch is gone, and let a
//     record of an open transaction supersede a committed one. Readers of compacted topics see every version, so they
//     are tested against the worst case; a directory grows until it is removed.
//   - The log's start after DeleteRecords is kept over a clean restart only; after a kill deleted records may return.
//   - A start reads the whole log twice, and after a kill holds it in memory once.
//   - Timestamps of LogAppendTime topics read as type CreateTime.
//   - Offsets staged in a transaction by a client of EndTxn before version 5 are lost without an error if the broker
//     restarts under the client before it has written a record.
//
// # The registry
//
// The registry has the part of the Confluent API that clients use to register, look up and evolve Avro schemas: no
// references, no deletion, no modes and no contexts. Compatibility is checked by resolving the schemas against each
// other, in the directions and against the versions that the level asks for. Spaces and the order of keys do not make
// another schema; documentation, defaults and aliases do.
package embedded
