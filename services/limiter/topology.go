package limiter

import "databus/schemas"

// Name of the service and of its consumer group.
const Name = "limiter"

// Topology is the service's place in the data flow.
func Topology() schemas.Topology {
	return schemas.Topology{Service: Name, Edges: []schemas.Edge{
		{Kind: schemas.Source, Topic: schemas.UsageCounts, Group: Name, Doc: "counts to compare"},
		{Kind: schemas.Table, Topic: schemas.UsageContracts, Group: Name, Doc: "limits and thresholds of accounts"},
		{Kind: schemas.Changelog, Topic: schemas.LimiterChangelog, Doc: "counts, contracts and crossed thresholds"},
		{Kind: schemas.Sink, Topic: schemas.UsageThresholds, Doc: "each crossing and reset, once"},
		{Kind: schemas.Sink, Topic: schemas.UsageLimits, Doc: "the newest state of each limit"},
		{Kind: schemas.DeadLetter, Topic: schemas.MustLookup(schemas.UsageCounts).DeadLetter()},
		{Kind: schemas.DeadLetter, Topic: schemas.MustLookup(schemas.UsageContracts).DeadLetter()},
	}}
}

// State stores.
const (
	storeCounts    = "counts"    // account/pack/period -> the count as of the newest record
	storeContracts = "contracts" // account -> Contract in Avro
	storeCrossed   = "crossed"   // account/pack/period -> thresholds announced as crossed, and whether the period is over
)
