// Package schemas is the contract between the services: the Avro schemas of every event and the catalogue of topics
// that carry them.
package schemas
