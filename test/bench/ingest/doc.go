// Package ingest measures the record half's front on real servers: how fast records that come in HTTP batches are rows of
// Cassandra's three tables, beside the driver alone issuing the same statements for the same rows against the same running
// servers (reads and deletes included), and how long single calls take.
//
// Rounds alternate between the two, so that a machine that changes its pace changes it for both. A round's records are new
// for the first half; in the second half each of them moves to another person, which deletes its rows there. Ingest is the
// service's own program in a process of its own with everything on: sealing, usage events, limits, both loops.
package ingest
