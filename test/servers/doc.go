// Package servers starts the real servers that tests run against: Apache Kafka, Apicurio Registry (Confluent API),
// Apache Cassandra and versitygw (S3), fetched once from the public package registries at the versions in pins/.
//
// A test asks for an address and does not care who started the server:
//
//	func TestMain(m *testing.M) { servers.Main(m) }
//	func TestX(t *testing.T)    { brokers := servers.Kafka(t) }
//
// The address comes from the environment (DATABUS_TEST_KAFKA and so on) when a set is shared: `servers run -- go test
// ./...` starts one for all test packages, and with STACK=external they are servers that the user runs, and nothing is
// ever started. Otherwise the server is started for this process, once, and ends with it. A crash test starts servers
// of its own: StartKafka, StartKafkaCluster, StartRegistry, StartCassandra, StartS3.
//
// Promise: a started server has answered a real request of its protocol; it listens on 127.0.0.1 alone, on ports that
// no other test process of this cache uses, and keeps them over Restart; it is dead when the process that started it is
// dead, even by kill -9 (Linux).
//
// Concurrency: all functions may be called from several goroutines and from several processes; the methods of one
// Process exclude each other.
//
// Failure: a server that cannot start is an error, never a skipped test; the error names the server, the reason, the end of
// its log and where the log is kept: in $DATABUS_CACHE/run (default ~/.cache/databus/run), of the last 20 runs.
package servers
