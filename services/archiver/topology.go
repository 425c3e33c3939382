package archiver

import "databus/schemas"

// Name of the service, and of its consumer group.
const Name = "archiver"

// Topology is the service's place in the data flow, with the default topics.
func Topology() schemas.Topology { return Default().topology() }

// topology has those of the configured topics that the catalogue knows; what others must be is checked when topics are chosen.
func (c Config) topology() schemas.Topology {
	t := schemas.Topology{Service: Name}
	for _, name := range c.Topics {
		topic, known := schemas.Lookup(name)
		if !known {
			continue
		}
		t.Edges = append(t.Edges,
			schemas.Edge{Kind: schemas.Source, Topic: name, Group: Name, Doc: "copied to Parquet objects"},
			schemas.Edge{Kind: schemas.DeadLetter, Topic: topic.DeadLetter()})
	}
	t.Edges = append(t.Edges, schemas.Edge{Kind: schemas.Sink, Topic: schemas.ArchiveFiles, Doc: "one event per object"})
	return t
}
