// Package usagehistory answers what the usage-aggregator asks of the time before it counted: usage.baseline-requests in,
// usage.baselines out.
//
// Promise, with the archive as source: an answer is the sum over the events of the request's account, pack and period below the
// seam that are no repeats, less those from the seam on that the stream counted although they repeat an event that it had
// not read. So answer and stream together are what somebody counts who reads everything from the beginning with the aggregator's
// rules: an event is a repeat if its id occurred within the window of append time before it. The answer is a function of the
// request and of what the partition holds; who answers, how often and when does not matter. It is estimated only where neither archive
// nor Kafka reach back to the start of the period.
//
// An account's repeats across the place where the stream began to read end a window behind it. Until append time has
// passed that, requests of accounts that had events in the window before wait, and the stream goes on without.
//
// With Druid as source, the answer is Druid's sum over the events that happened before the seam was appended, always estimated.
//
// Delivery: a request's offset is committed behind its answer. After a crash some answers are given again, which the
// aggregator ignores.
//
// Concurrency: partitions in parallel, at most concurrency of them at a time, each read once for all its requests that wait.
// Memory: the ids of one window of the accounts that are asked for, max_ids at most, and a page per column of one archive object,
// or, where the archive is sorted (archiver.sort_by), one row group's records, 32 MiB.
//
// Failure: what can get better is tried again with growing pauses: brokers, registry, bucket, a gap in the archive, Druid.
// A request that breaks a rule, or whose sums have no room, goes to the dead-letter topic with the rule.
package usagehistory
