// Package verify recomputes what the usage half of Databus must have counted, announced and stored, and compares.
//
// Promise: it shares no code with the services and their packages: from what is in usage.events and usage.contracts, one
// thread computes in the plainest way which counts, dead letters, threshold events and limit states there must be.
// Everything that differs from what a read_committed consumer sees is listed, as missing or as double. It decodes with
// databus/schemas/codec and opens local state with databus/pkg/state; it reads the rows with code of its own.
//
// What it relies on: for each account, events and contracts were processed in the order of their append times. Whoever
// produces must wait with a contract until everything sent before for that account has been counted and compared, and
// must go on only when both services have read it (see databus/test/usage).
//
// Threshold events are a function of the committed sequence of counts, so they are computed from that sequence; and the
// sequence itself must be one of sums over growing prefixes of the events.
//
// Concurrency: none; call Verify when the services have stopped. Failure: an error where something could not be read; a
// difference is no error but a part of the Report.
package verify
