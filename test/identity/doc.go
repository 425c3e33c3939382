// Package identity tests pkg/identity on a real Cassandra: the conformance suite, equality with the embedded store, and
// what only a real server shows.
package identity
