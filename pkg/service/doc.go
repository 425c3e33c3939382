// Package service is what every service of Databus has, and nothing more: configuration, logs, metrics, traces, health,
// the options of its Kafka clients, and an orderly end.
//
// A service is a value, a [Definition]: its name, its topology, its default configuration and its constructor. [Main]
// runs one as a process; a [Process] runs several of them in one, on the same parts.
//
// Promise: a service starts only with a configuration that was checked as a whole and on topics that are as the
// catalogue says; it is ready only while all of its checks are; on SIGTERM it drains, and it says so when it could not.
//
// Concurrency: Health, Progress, Env and Process may be used from any goroutine. Configurations are values and are never
// changed after loading.
//
// Failure behaviour: what is wrong with the configuration or the topics ends the process at once with everything that is
// wrong and what to do about it; what is merely unreachable (Kafka, the schema registry) is waited for, while /readyz
// says what is missing. A [Runner] that returns an error ends the process with exit code 1.
package service
