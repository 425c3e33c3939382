// Package aggregator measures databus/services/usage-aggregator against the same work on Kafka Streams 4.3.1
// (exactly_once_v2, databus/test/bench/streams): `make bench-aggregator`.
//
// # What is measured
//
// One real Kafka broker of its own holds 3,000,000 usage events in the registry's wire format: 15,000 accounts in two
// packs, chosen by Zipf's law with exponent 1.01 and a fixed seed, all within one calendar month, every match naming its
// pack's provider, one event in a hundred an exact repeat of an earlier one. Every event counts to four rows (its pack and
// all packs, in total and in the month), so there are 90,000 rows. Both contenders read this one topic of 8 partitions and
// write the same counts by provider into a topic of their own, one per changed row and commit (every 100 ms), and keep
// their rows on local disk with a changelog. They take turns; each run starts with an empty state, new outputs and a new
// consumer group. The topic is made anew for each of two variants, and latency, whose events have accounts of their own, is
// measured behind the variant's other runs:
//
//	plain   every event counts
//	dedup   repeats of an id within 24 h are dropped, which takes one more row per event
//
// Each run is checked: every row's last value under read committed must be the sum that the generator knows, and no value
// may fall below the one before. A run that is not exact ends the bench with exit code 1. A goal that is missed does not:
// the figure says MISSED.
//
//	events_per_cpu_second_ratio  events by the process's CPU time from its start to its last commit, ours by theirs
//	warm_...                     the same over the last two thirds of the events, when the JVM has compiled its hot code
//	rss_ratio                    largest resident set
//	broker_cpu_ratio             CPU time of the broker during the run
//	restart_...                  from the start of the process until a consumer under read committed sees its first new count:
//	                             behind a clean stop, with the state deleted (with dedup this restores the ids of the
//	                             window), and behind kill -9 in the middle of a run, with the same state directory; the
//	                             last without the time in which the last ids are made anew, recall_after_kill_seconds_dedup
//	latency_p99_ratio            from just before an event is produced until a consumer under read committed has its count,
//	                             at 500 events/s with a commit every 20 ms, behind 10 s of warming up
//	relay_latency_...            the same of a process that copies the events in such transactions, and does nothing else;
//	                             ..._at_once with transactions that follow each other at once
//	ceiling_share                events per CPU second, by those of a process that only consumes and decodes the topic
//
// Figures are medians over the pairs. CPU time counts, not wall time, so that a loaded machine spoils little; the load
// average and the share of time that a host gave to others are printed beside each run, and memory that it took back is
// touched before (see measure.Machine).
//
// # Settings
//
// The broker has 1 GB of heap. Ours runs with the service's defaults. The peer has two stream threads, 64 MiB of cache, 128
// MiB for RocksDB's blocks and memtables, a heap of 512 MB with the parallel collector, static membership, raw bytes as keys
// and rows and Avro read and written field by field; UsageAggregator.java names the rest, and the work that it is spared.
//
// Concurrency: Run is for one goroutine. Failure: see above; nothing is left running, and the directory with logs and
// states stays where the error names it.
package aggregator
