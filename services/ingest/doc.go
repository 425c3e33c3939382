// Package ingest is the front of the record half: it resolves customers' records to persons, seals them onto the
// Databus, and keeps the serving database up to date.
//
// Promise: what has been answered with success is on databus.records (acks=all), and nothing on it is readable without
// the account's data key. A record's versions are ordered by their offset and by nothing else; only appliers write the
// database, each row a pure function of record and graph. A repeated request id changes nothing.
//
//	POST, DELETE --> resolve, seal ------------------> databus.records --> applier, one group per database version --> store
//	identity.requests --> request loop (exactly once) --^         |
//	                        \--> identity.resolutions              \--> evidence loop (exactly once) --> identity.observations
//	GET <------------------------------------------------------------------------------------------------ store
//
// Inputs: HTTP; identity.requests; databus.records; the tables databus.databases, identity.graphs, keys.events and
// usage.limits. Outputs: databus.records, identity.resolutions, identity.observations, usage.events, keys.events.
//
// Concurrency: the API's calls, each loop's partitions and each database version's applier run beside each other; what
// they share is safe for that. One instance id, one process.
//
// Failure: without Kafka the API answers 503 and nothing is acknowledged. Without the store, records are accepted and
// GET answers 503; appliers wait, and the readiness check says so. Without a database, its graph or an account's key the
// API answers 503 and the loops' partitions wait. A loop or an applier that failed starts again from what is committed. A request that cannot be opened or read goes to the dead-letter topic
// with its bytes. A fenced instance ends. Asked to stop, the API answers what runs and reads no more of batches, then the
// loops and appliers end.
//
// Files: api.go the front and what all routes share; put.go, batch.go, body.go, lookup.go, problem.go, apikeys.go its
// calls; requests.go and evidence.go the loops; applier.go which appliers run, apply.go one life of one; serving.go the
// database that answers.
package ingest
