package archiver

import "databus/schemas"

// Name of the service, and of its consumer group.
const Name = "archiver"

// Topology is the service's place in the data flow, with the default topics.
func Topology() schemas.Topology {
	t := schemas.Topology{Service: Name}
	for _, topic := range Default().Topics {
		t.Edges = append(t.Edges,
			schemas.Edge{Kind: schemas.Source, Topic: topic, Group: Name, Doc: "copied to Parquet objects"},
			schemas.Edge{Kind: schemas.DeadLetter, Topic: schemas.MustLookup(topic).DeadLetter()})
	}
	t.Edges = append(t.Edges, schemas.Edge{Kind: schemas.Sink, Topic: schemas.ArchiveFiles, Doc: "one event per object"})
	return t
}
