package stream

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// A Store is a named set of rows, in partitions like the inputs. It says where the rows are when this machine's disk is lost.
type Store struct {
	Name string
	// Topic is the sink that holds the store's rows: the newest record of a key there is its row, a tombstone deletes it. A
	// Put or Delete produces that record, in the partition of the row, so that the topic is the rows' changelog and nothing is
	// written twice. Empty: rows go to the topology's changelog.
	Topic string
	// Derived rows are on this disk alone. They follow from the inputs: Handlers.Again makes them anew (see Options.Recall).
	Derived bool
	// Uncached: rows are seldom asked for twice, or the service keeps them itself; they would push others out of the cache.
	Uncached bool
}

// Recall says which inputs derived rows follow from: the records of a topic that were appended within a window before the first
// one that is not processed.
type Recall struct {
	Topic  string
	Window time.Duration // 0: nothing is recalled
}

// recallSlack is added to the window: a change of leaders may turn append time back a little.
const recallSlack = time.Hour

func (s *shape) addStores(o *Options) error {
	for i, store := range o.Stores {
		s.stores[store.Name] = i
		switch {
		case store.Name == "" || strings.ContainsAny(store.Name, "/\x00"):
			return fmt.Errorf("stream: %q is no name for a store", store.Name)
		case store.Topic != "" && (store.Derived || !s.sinks[store.Topic]):
			return fmt.Errorf("stream: store %s cannot have its rows in %s, which is no sink of group %s", store.Name, store.Topic, o.Group)
		case store.Topic != "" && s.kept[store.Topic] != 0:
			return fmt.Errorf("stream: two stores cannot have their rows in %s", store.Topic)
		}
		if store.Topic != "" {
			s.kept[store.Topic] = i + 1
		}
		s.derived = s.derived || store.Derived
	}
	if len(o.Stores) > 0 && s.changelog == "" {
		return fmt.Errorf("stream: group %s has stores and its topology has no changelog", o.Group)
	}
	if s.derived && o.Recall.Topic == "" {
		return errors.New("stream: derived stores need a topic to recall them from")
	}
	return nil
}

// logs of the state: the changelog first, then the topics that hold rows.
func (s *shape) rowTopics() []string {
	if s.changelog == "" {
		return nil
	}
	topics := []string{s.changelog}
	for topic := range s.kept {
		topics = append(topics, topic)
	}
	return topics
}
