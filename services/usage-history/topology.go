package usagehistory

import "databus/schemas"

// Name of the service and of its consumer group.
const Name = "usage-history"

// Topology is the service's place in the data flow.
func Topology() schemas.Topology {
	return schemas.Topology{Service: Name, Edges: []schemas.Edge{
		{Kind: schemas.Source, Topic: schemas.UsageBaselineRequests, Group: Name, Doc: "what to count of the time before a seam"},
		{Kind: schemas.Table, Topic: schemas.ArchiveFiles, Doc: "which objects hold usage.events"},
		{Kind: schemas.Table, Topic: schemas.UsageEvents, Doc: "what is not archived, up to the seam; not with Druid"},
		{Kind: schemas.Sink, Topic: schemas.UsageBaselines, Doc: "one answer to each request, or more"},
		{Kind: schemas.DeadLetter, Topic: schemas.MustLookup(schemas.UsageBaselineRequests).DeadLetter()},
	}}
}
