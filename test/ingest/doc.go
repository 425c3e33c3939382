// Package ingest proves that the record half's front neither loses nor doubles anything that it acknowledged: it runs two
// instances of ingest as processes, sends them a seeded load over HTTP and over identity.requests with a client that tries
// again with the same request ids on the other instance, kills them at random moments and between two steps of every
// protocol, and lets databus/test/ingest/verify compare the three tables, the evidence and the answers with a model.
//
// The tests on embedded parts run everywhere; there, one instance owns the embedded store and applies, the other one
// serves and runs the loops. Those on real Kafka and Cassandra, where both apply, need the build tag servers. In full
// size, ending in lines of figures: make prove-ingest.
//
// Files: world_test.go brokers, store and programs; child_test.go processes; load_test.go and send_test.go the load;
// kill_test.go and, on real servers, real_test.go the proofs; figures_test.go what they print.
package ingest
