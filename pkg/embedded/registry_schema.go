package embedded

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"

	"github.com/twmb/avro"
)

// Level says which earlier versions of a subject a new one must get along with, and in which direction.
type Level string

// The levels of the Confluent API.
const (
	LevelNone               Level = "NONE"
	LevelBackward           Level = "BACKWARD" // the new schema reads what the last one wrote
	LevelBackwardTransitive Level = "BACKWARD_TRANSITIVE"
	LevelForward            Level = "FORWARD" // the last schema reads what the new one writes
	LevelForwardTransitive  Level = "FORWARD_TRANSITIVE"
	LevelFull               Level = "FULL" // both
	LevelFullTransitive     Level = "FULL_TRANSITIVE"
)

func (l Level) valid() bool {
	switch l {
	case LevelNone, LevelBackward, LevelBackwardTransitive, LevelForward, LevelForwardTransitive, LevelFull, LevelFullTransitive:
		return true
	}
	return false
}

// transitive: every earlier version counts, not only the last.
func (l Level) transitive() bool {
	return l == LevelBackwardTransitive || l == LevelForwardTransitive || l == LevelFullTransitive
}

func (l Level) backward() bool {
	return l == LevelBackward || l == LevelBackwardTransitive || l == LevelFull || l == LevelFullTransitive
}

func (l Level) forward() bool {
	return l == LevelForward || l == LevelForwardTransitive || l == LevelFull || l == LevelFullTransitive
}

// maxNesting of a schema's JSON keeps its parsers from deep recursion.
const maxNesting = 200

// parseSchema returns a compiled schema, whose String is the compact text, and what makes it the same schema as
// another: all of its JSON but spaces and the order of keys.
func parseSchema(text string) (*avro.Schema, string, error) {
	if text != "" && (text[0] >= 'a' && text[0] <= 'z') {
		text = strconv.Quote(text) // a bare name such as string is a schema too
	}
	depth := 0
	dec := json.NewDecoder(bytes.NewReader([]byte(text)))
	for {
		tok, err := dec.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, "", err
		}
		switch tok {
		case json.Delim('{'), json.Delim('['):
			depth++
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
		if depth > maxNesting {
			return nil, "", fmt.Errorf("the schema nests deeper than %d levels", maxNesting)
		}
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, []byte(text)); err != nil {
		return nil, "", err
	}
	schema, err := avro.Parse(compact.String())
	if err != nil {
		return nil, "", err
	}
	generic := json.NewDecoder(&compact)
	generic.UseNumber()
	var v any
	if err := generic.Decode(&v); err != nil {
		return nil, "", err
	}
	identity, err := json.Marshal(v) // sorts keys
	return schema, string(identity), err
}

// check returns what is wrong with a new schema, empty if nothing is: against all the versions, newest first, or
// against the newest alone. The caller holds r.mu.
func (r *Registry) check(level Level, schema *avro.Schema, versions []int, all bool) string {
	for i, id := range slices.Backward(versions) {
		if problem := compare(level, schema, r.parsed[id]); problem != "" {
			return fmt.Sprintf("%s, against version %d: %s", level, i+1, problem)
		}
		if !all {
			break
		}
	}
	return ""
}

// compare says what keeps two schemas apart under a level.
func compare(level Level, fresh, old *avro.Schema) string {
	if level.backward() {
		if err := avro.CheckCompatibility(old, fresh); err != nil {
			return "the new schema cannot read what the old one wrote: " + incompatibility(err)
		}
	}
	if level.forward() {
		if err := avro.CheckCompatibility(fresh, old); err != nil {
			return "the old schema cannot read what the new one writes: " + incompatibility(err)
		}
	}
	return ""
}

func incompatibility(err error) string {
	var c *avro.CompatibilityError
	if !errors.As(err, &c) {
		return err.Error()
	}
	return fmt.Sprintf("at %q: %s (reader %s, writer %s)", c.Path, c.Detail,
		cmp.Or(c.ReaderType, "nothing"), cmp.Or(c.WriterType, "nothing"))
}
