package schemas

// EdgeKind says how a service uses a topic.
type EdgeKind string

const (
	Source     EdgeKind = "source"      // consumed, by a consumer group
	Table      EdgeKind = "table"       // followed from its beginning into memory or a store
	Changelog  EdgeKind = "changelog"   // written and restored by the service itself
	Loop       EdgeKind = "loop"        // written and consumed by the service itself
	Sink       EdgeKind = "sink"        // produced
	DeadLetter EdgeKind = "dead letter" // produced for what cannot be processed
)

// An Edge joins a service to a topic.
type Edge struct {
	Kind  EdgeKind
	Topic string
	// Group is the consumer group of a source; empty otherwise.
	Group string
	Doc   string
}

// Topology is a service's place in the data flow, as data.
type Topology struct {
	Service string
	Edges   []Edge
}

// Topics returns the catalogue's rows of all topics that the topology touches, in its order, each once.
func (t Topology) Topics() []Topic {
	var topics []Topic
	seen := map[string]bool{}
	for _, e := range t.Edges {
		if !seen[e.Topic] {
			seen[e.Topic] = true
			topics = append(topics, MustLookup(e.Topic))
		}
	}
	return topics
}
