// Package limiter compares counts with contracts.
//
// Inputs: usage.counts, joined with usage.contracts. Outputs: usage.thresholds, one event per crossing and per reset;
// usage.limits, the newest state of each limit per transaction, which API layers follow; dead letters of both inputs.
//
// Promise: threshold events are a function of the committed sequence of counts and contracts: a threshold is announced as
// crossed once, when a count reaches it, and as reset once, when a correction falls below it, or a new contract raises
// or drops it. 100 percent of a limit is always a threshold. Each event names the input record that caused it; nothing
// happens without one, so a period that ends is noticed by readers, by their clock.
//
// Concurrency: the stream runtime's: partitions in parallel, one goroutine each.
//
// Failure: a count or contract that breaks a rule goes to the dead-letter topic. The rest is the runtime's (see
// databus/pkg/stream).
package limiter
