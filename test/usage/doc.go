// Package usage proves that the usage half counts exactly once: it runs usage-aggregator and limiter as processes, sends
// them a seeded load with repeats, late events, corrections and changing contracts, kills, freezes and restarts them and
// the brokers, and lets databus/test/usage/verify recompute everything. With usage-history and an archive it proves the same of
// what happened before they were there.
//
// A tenth of each proof runs with the other tests. Tests on real Kafka need the build tag servers. In full size, ending in
// lines of figures:
//
//	make prove-usage
//
// Files: world_test.go brokers and programs; child_test.go processes; load_test.go the load; kill_test.go,
// group_test.go, equivalence_test.go, history_test.go and, on real Kafka, real_test.go and brokers_test.go the proofs; figures_test.go what they
// print.
package usage
