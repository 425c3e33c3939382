// Package identity is the record model of Databus: how a customer's record becomes a version on databus.records, what row
// that version is in a database, and the three look-up tables that hold the rows.
//
// Promise: each row is a pure function of one record on databus.records, its offset and one graph version, together
// with the request ids accepted before it. Whoever folds the same records in order of their offsets, in whatever
// batches, from whatever earlier offset, after whatever crash, ends with the same tables: the live database, a rebuilt
// one and a model in memory. Nothing but the offset orders versions; no clock takes part.
//
//	request --Resolver.Resolve--> databus.records --Applier--> Store: records_by_key, records_by_person, records_by_fcid
//	                                    \--Resolver.Observation--> identity.observations
//
// Concurrency: Resolver, Store, Stores, Databases and Graphs may be used by any number of goroutines. A record key has
// one writer at a time: the applier that owns its partition.
//
// Failure: a store that does not answer gives an error and the batch is applied again; a record that can never be opened
// is dead (IsDead) and leaves its row as it is; every other error stops the partition.
package identity
