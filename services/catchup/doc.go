// Package catchup is the service that brings a database version up to date from the Databus.
//
// Promise: a completed catch-up has applied every version of every record below the trigger, the end of each partition of
// databus.records when the job was planned, to the database version, in order and by the live applier's own rules; has
// committed the trigger for the version's applier group; and has announced the version on STANDBY, so that ingest's
// appliers follow it from there. Records that come after the trigger are theirs. It may be asked for any number of times.
//
//	catchup.requests -> plan: per partition from the group's position, or else the version's frontier, to its end
//	  stage 0, one task a partition: read, apply, commit for the applier group
//	  stage 1, one task: version STANDBY
//	-> catchup.events
//
// A request to FOLLOW is served in the same way: once the version is on STANDBY, the appliers follow it without end.
//
// Concurrency: any number of instances; jobs and tasks are shared as pkg/job says. One writer a database: a task runs
// only while the applier group has no members, and the group refuses the task's commits once it has one.
//
// Failure: a task goes on from the group's committed position, so whatever is cut off is read once more at most, and
// then skipped as superseded. What retention has dropped is read from the archive; a gap there fails the job and is named
// by partition and offsets. A record in an unknown schema, or an unreachable registry, is waited for. Records that can
// never be opened or decoded are counted as dead, as the applier does. A transaction that is open at the trigger is
// waited for.
package catchup
