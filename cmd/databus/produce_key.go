package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/twmb/avro"

	"databus/schemas"
)

// A keyFunc returns the key of an event, given as JSON.
type keyFunc func(event []byte) ([]byte, error)

// keys decides where the events' keys come from: --key, --key-field, or the field that the catalogue names.
func (c produceCmd) keys(t schemas.Topic) (keyFunc, error) {
	if c.Key != nil && c.KeyField != "" {
		return nil, errors.New("--key and --key-field exclude each other")
	}
	if c.Null {
		switch {
		case c.Key == nil:
			return nil, errors.New("a tombstone deletes a key: name it with --key")
		case t.Cleanup != schemas.Compact:
			return nil, fmt.Errorf("topic %s is not compacted, so that a tombstone would delete nothing there", t.Name)
		}
	}
	if c.Key != nil {
		return func([]byte) ([]byte, error) { return []byte(*c.Key), nil }, nil
	}
	field := c.KeyField
	if field == "" {
		if field = keyField(t); field == "" {
			return nil, fmt.Errorf("the key of %s is %q, which is not one field of its events; give it with --key or --key-field", t.Name, t.Key)
		}
	}
	return func(event []byte) ([]byte, error) {
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(event, &fields); err != nil {
			return nil, fmt.Errorf("reading the key from field %s: %w", field, err)
		}
		var key string
		if err := json.Unmarshal(fields[field], &key); err != nil || key == "" {
			return nil, fmt.Errorf("the key is to be taken from field %s, which holds no text; fill it in or give --key", field)
		}
		return []byte(key), nil
	}, nil
}

// keyField is the text field of a topic's events that is its key: "job id" is the field job_id, "graph version" the
// field version of a graph version. Empty if the key is not a single field.
func keyField(t schemas.Topic) string {
	if strings.Contains(t.Key, "/") {
		return ""
	}
	s, err := avro.Parse(t.AvroSchema())
	if err != nil {
		return ""
	}
	words := strings.Fields(strings.ToLower(t.Key))
	for _, name := range []string{strings.Join(words, "_"), words[len(words)-1]} {
		for _, f := range s.Root().Fields {
			if f.Name == name && f.Type.Type == "string" {
				return name
			}
		}
	}
	return ""
}
