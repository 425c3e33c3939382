package ingest

import "databus/schemas"

// Name of the service.
const Name = "ingest"

// Consumer groups. An applier's group is named by the database version it fills.
const (
	requestsGroup = "ingest"
	evidenceGroup = "ingest.evidence"
)

// Topology is the service's place in the data flow.
func Topology() schemas.Topology {
	return schemas.Topology{Service: Name, Edges: []schemas.Edge{
		{Kind: schemas.Source, Topic: schemas.IdentityRequests, Group: requestsGroup, Doc: "request loop"},
		{Kind: schemas.Sink, Topic: schemas.DatabusRecords, Doc: "HTTP API and request loop"},
		{Kind: schemas.Sink, Topic: schemas.IdentityResolutions, Doc: "request loop"},
		{Kind: schemas.DeadLetter, Topic: schemas.MustLookup(schemas.IdentityRequests).DeadLetter()},
		{Kind: schemas.Source, Topic: schemas.DatabusRecords, Group: "ingest.applier.<database version>", Doc: "appliers"},
		{Kind: schemas.Source, Topic: schemas.DatabusRecords, Group: evidenceGroup, Doc: "evidence loop"},
		{Kind: schemas.Sink, Topic: schemas.IdentityObservations, Doc: "evidence loop"},
		{Kind: schemas.Changelog, Topic: schemas.IngestChangelog, Doc: "evidence loop: recent requests of each record"},
		{Kind: schemas.DeadLetter, Topic: schemas.MustLookup(schemas.DatabusRecords).DeadLetter()},
		{Kind: schemas.Table, Topic: schemas.DatabusDatabases},
		{Kind: schemas.Table, Topic: schemas.IdentityGraphs},
		{Kind: schemas.Table, Topic: schemas.KeysEvents},
		{Kind: schemas.Sink, Topic: schemas.KeysEvents, Doc: "data keys; that it holds keys, has dropped revoked ones, and has swept a database"},
		{Kind: schemas.Table, Topic: schemas.UsageLimits},
		{Kind: schemas.Sink, Topic: schemas.UsageEvents, Doc: "one event per call"},
	}}
}
