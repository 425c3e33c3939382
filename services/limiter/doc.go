// Package limiter compares counts with contracts.
//
// Inputs: usage.counts, joined with usage.contracts. Outputs: usage.thresholds, one event per crossing and per reset;
// usage.limits, the newest state of each limit per transaction, which API layers follow; dead letters of both inputs.
//
// Promise: threshold events are a function of the committed sequence of counts and contracts: a threshold is announced as
// crossed once, when a count reaches it, and as reset once: when a correction falls below it, when a contract raises or
// drops it, or when the first count of a later period of the pack comes. What a late event crosses in a period that is
// over is announced as crossed and, right behind it, as reset. 100 percent of a limit is always a threshold. Each event
// names the input record that caused it; nothing happens without one, so until the next period's first count its end is
// noticed by readers, by their clock.
//
// Where a contract changes the bounds of periods (see usage.AccountBounds), the old bounds' limit ends with it, for ever: a
// contract that has the former bounds again begins their periods anew, and what was used up and crossed before does not come
// back. Where bounds change because the contract had ended before events that came, which counts do not tell, the old
// limit ends with the first count under the new bounds. A count may be below zero, if more was corrected than counted: it is
// compared as it is.
//
// Concurrency: the stream runtime's: partitions in parallel, one goroutine each.
//
// Failure: a count or contract that breaks a rule goes to the dead-letter topic. The rest is the runtime's (see
// databus/pkg/stream).
package limiter
