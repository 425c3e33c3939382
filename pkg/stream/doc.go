// Package stream is the exactly-once loop of Databus: it consumes input topics, keeps state and produces outputs so that
// every input record has its effect exactly once, through crashes, rebalances and zombies.
//
// A service describes itself as data (its topology's edges, the names of its stores) and gives one function per input,
// which reads and writes stores and emits records through a [Tx]. The runtime does the rest, in this order:
//
//	fence      InitProducerID aborts what a predecessor with the same instance id left open
//	join       static membership, range balancer: equal partition numbers of all inputs have the same owner
//	restore    per partition: replay the changelog's difference, or all of it, and check it against the group's offsets
//	recall     what derived rows do not cover is read again from the input that they follow from
//	loop       poll -> process partitions in parallel -> finish -> produce outputs, rows, markers -> flush
//	           -> end the Kafka transaction (outputs, changelog and input offsets at once) -> allow rebalance
//	           and by and by, a partition at a time: write to Pebble what was committed
//
// Promise: outputs under read_committed, the changelog and the group's offsets always stand for the same prefix of every
// input partition; the local state may lie behind them, never ahead. A transaction is always caused by an input.
//
// Concurrency: the functions of one partition are called by one goroutine at a time, those of different partitions in
// parallel. [Runtime.Run] is called once; the other methods by any number of goroutines at any time.
//
// Failure: undecodable and otherwise poisonous records go to the dead-letter topic inside the same transaction. An
// unreachable registry or an unknown schema pauses the partition until it helps, behind what came before the record. A transaction that Kafka refused is
// done again from the last committed state. Everything that could make a count wrong ends Run with an error that says
// what to do: a record that stalls its handler, a fenced instance, an unknown outcome of a commit, offsets that somebody reset, records that retention
// deleted before they were read. The caller starts again, and the restore finds the truth.
//
// Files: options.go what a service says; tx.go its view of a partition; cache.go and rowtable.go write-behind rows; run.go the loop;
// pace.go how much is polled at once; commit.go the end of a transaction; assign.go, restore.go and recall.go what happens
// before the first record of a partition; store.go where rows are kept; fault.go which errors mean what; status.go health and metrics.
package stream
