// Package usageaggregator counts usage events exactly once.
//
// Inputs: usage.events, joined with usage.contracts, and usage.baselines. Outputs: usage.counts, one event per changed
// account, pack and period and transaction, and a tombstone for a count that is kept no longer; usage.baseline-requests; dead letters of
// all inputs.
//
// Promise: a count is the sum over the distinct valid events of its account, pack and period, each counted once, through
// any crash and rebalance. An event counts to the period of its own time, in the account's time zone, and under the
// contract that was in force when it was processed; contracts that existed when a partition was taken over come first.
// An event is a repeat, and dropped, if its id occurred in the same account within the configured window of append time before
// it; ids are compared by 96 bits of a keyed hash. A negative quantity corrects earlier ones; a count is a sum and may be below
// zero. An account without contract is counted in UTC. Of each count the part of up to 32 providers is kept apart, with
// what is owed to them; further ones share one.
//
// State: counts are in usage.counts itself, ids seen on the local disk alone; they are read again from usage.events.
//
// Bounds: where a contract changes the bounds of periods, they start anew under the account's next set of bounds, and the
// counts under the old ones stay as they are; usage.AccountBounds says when. What happened in such a period before its
// first event under the new bounds, the seam, is not in its count; neither is what retention had deleted before the
// topic was first read. With history.enabled, which needs a worker that answers, the count is then provisional and a
// baseline request goes out in the transaction that begins it, once, with the seam's offset. The answer is added once, in the
// transaction that makes the count final; further ones to the same request change nothing. Without, which is the default,
// nothing is asked for and counts stand, unmarked, for what came from the seam on.
//
// Periods that ended longer than keep_ended ago are deleted, and events that happened longer ago than that are refused.
//
// Concurrency: the stream runtime's: partitions in parallel, one goroutine each.
//
// Failure: an event or contract that breaks a rule goes to the dead-letter topic with the rule, and counts nothing. So does an
// event for which a sum has no room; its id has occurred all the same, so that it counts later under another one only. The
// rest is the runtime's (see databus/pkg/stream).
package usageaggregator
