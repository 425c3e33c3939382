// Package usageaggregator counts usage events exactly once.
//
// Inputs: usage.events, joined with usage.contracts. Outputs: usage.counts, one event per changed account, pack and
// period and transaction; dead letters of both inputs.
//
// Promise: a count is the sum over the distinct valid events of its account, pack and period, each counted once, through
// any crash and rebalance. An event counts to the period of its own time, in the account's time zone, and under the
// contract that was in force when it was processed; contracts that existed when a partition was taken over come first.
// Events of one account with the same id are one event, if they were appended within the configured window of each
// other's first; ids are compared in full. A negative quantity corrects earlier ones.
//
// Concurrency: the stream runtime's: partitions in parallel, one goroutine each.
//
// Failure: an event or contract that breaks a rule goes to the dead-letter topic with the rule, and counts nothing. The
// rest is the runtime's (see databus/pkg/stream).
package usageaggregator
