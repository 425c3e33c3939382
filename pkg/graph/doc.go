// Package graph says which identifiers belong to one person: from customers' fields to hashed identifiers, from evidence
// to immutable graph versions, from a graph version and a record to the person's FCID.
//
// Promise: everything here is a pure function. The same fields and pepper give the same identifiers; the same set of
// evidence, in whatever order, gives the same graph file, byte for byte; the same graph and identifiers give the same
// FCID. An FCID is the hash of its person's anchor, the identifier with the least (kind priority, first-seen time,
// hash): when persons merge the lesser anchor's FCID stays, when one splits the side that holds the anchor keeps it.
//
//	fields --Normaliser--> identifiers --+--> evidence (identity.observations) --Build--> graph file (FORMAT.md)
//	                                     +--> Graph.Resolve --> FCID
//
// Concurrency: Normaliser and Graph are immutable and may be used by any number of goroutines. Building is one call.
//
// A graph that was opened from a file is the file's pages, mapped: it takes no memory of its own, a look-up allocates none, and
// the mapping ends with the last reference. A Cache keeps the files of the versions used last.
//
// Failure: a file that is cut, changed or of another version is refused when it is opened, never while it is in use; a
// cached file is then fetched anew.
package graph
