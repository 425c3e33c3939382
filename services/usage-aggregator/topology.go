package usageaggregator

import "databus/schemas"

// Name of the service and of its consumer group.
const Name = "usage-aggregator"

// Topology is the service's place in the data flow.
func Topology() schemas.Topology {
	return schemas.Topology{Service: Name, Edges: []schemas.Edge{
		{Kind: schemas.Source, Topic: schemas.UsageEvents, Group: Name, Doc: "events to count"},
		{Kind: schemas.Table, Topic: schemas.UsageContracts, Group: Name, Doc: "time zones and periods of accounts"},
		{Kind: schemas.Source, Topic: schemas.UsageBaselines, Group: Name, Doc: "history to add"},
		{Kind: schemas.Changelog, Topic: schemas.UsageAggregatorChangelog, Doc: "contracts and bounds, what was asked for, and what counts stand for"},
		{Kind: schemas.Sink, Topic: schemas.UsageCounts, Doc: "one event per changed count and transaction; also the counts' changelog"},
		{Kind: schemas.Sink, Topic: schemas.UsageBaselineRequests, Doc: "what to count of the time before a seam"},
		{Kind: schemas.DeadLetter, Topic: schemas.MustLookup(schemas.UsageEvents).DeadLetter()},
		{Kind: schemas.DeadLetter, Topic: schemas.MustLookup(schemas.UsageContracts).DeadLetter()},
		{Kind: schemas.DeadLetter, Topic: schemas.MustLookup(schemas.UsageBaselines).DeadLetter()},
	}}
}

// State stores.
const (
	storeCounts    = "counts"    // account/pack/period -> the newest UsageCount, as in usage.counts
	storeContracts = "contracts" // account -> Contract in Avro
	storeBounds    = "bounds"    // account -> AccountBounds in JSON; "/" -> since when the partition counts
	storeSeen      = "seen"      // see seen; derived from usage.events
	storeAsked     = "asked"     // account/pack/period -> the BaselineRequest in Avro that is not answered yet
)
