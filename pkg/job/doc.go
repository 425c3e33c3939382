// Package job coordinates long work over topics: a request is planned, its tasks are scattered through a topic to
// workers in any number of processes, their results are gathered, and every step is said in an event.
//
//	requests --> Coordinator --> tasks --> Worker
//	                 |  ^                    |
//	      events <---+  +------ results <----+
//	                 |
//	               table (a row a job) --> View --> Worker, status
//
// Tasks may be in stages (Kind.Stage): those of a stage are sent when all tasks of the stages below are done.
//
// The coordinator is a goka processor; a job's state is its row in the processor's group table (machine.go has the state
// machine). Services give a Kind: the topics, and the functions that plan, run and say things in their own events.
//
// Promise. A request whose record is acknowledged leads to exactly one end (completed, failed or cancelled) in the job's
// row, whatever crashes; in the row each task's result is recorded once. Everything outside the row is at least once:
// a task may run again, an event may be said again with the same number, so effects of tasks must be idempotent and
// consumers of events must go by (job id, event, number). A request with a known id is answered with the job's events
// again and what is still open is sent again; it never starts a second job. Tasks run only under the recorded plan.
//
// Concurrency. Coordinators share the partitions of requests, results and table; a partition's inputs are handled one
// after the other. Workers share the partitions of the tasks topic. View is safe for concurrent use; the functions of a
// Kind are called concurrently for different partitions.
//
// Failure. What cannot be read goes to the dead-letter topic, or is logged, and is not tried again. Errors marked
// Temporary are waited out. A row that cannot be decoded stops the coordinator: it never goes on without a state.
//
// The topics of a kind must not be written by transactions where goka restores from them: that is the table, which only
// this package writes. goka waits for the record before the high watermark, and behind a transaction that is a
// commit marker, which no consumer ever sees.
package job
