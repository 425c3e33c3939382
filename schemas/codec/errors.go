package codec

import (
	"errors"
	"fmt"
)

var (
	// ErrUndecodable: the bytes are not what their schema says.
	ErrUndecodable = errors.New("undecodable")
	// ErrTooLarge: a size, a count or the nesting is above a limit.
	ErrTooLarge = errors.New("too large")
	// ErrWrongSchema: the schema is known but it is not one of the topic's, or it cannot be resolved to the reader's.
	ErrWrongSchema = errors.New("wrong schema")
	// ErrUnknownSchema: the registry does not know the schema.
	ErrUnknownSchema = errors.New("unknown schema")
	// ErrIncompatible: the registry refuses the schema as incompatible with the subject's earlier ones.
	ErrIncompatible = errors.New("incompatible schema")
	// ErrUnavailable: the registry did not answer.
	ErrUnavailable = errors.New("registry unavailable")
)

// IsPoison reports whether trying again can never help, so that the record belongs in the dead-letter topic.
func IsPoison(err error) bool {
	return errors.Is(err, ErrUndecodable) || errors.Is(err, ErrTooLarge) || errors.Is(err, ErrWrongSchema)
}

// Error is what encoding and decoding return. It never holds values of the event.
type Error struct {
	Topic string
	// SchemaID is the writer's schema; 0 where it is not known.
	SchemaID int
	// Kind is one of the package's error values.
	Kind   error
	Detail string
}

func (e *Error) Error() string {
	s := fmt.Sprintf("topic %s: %v", e.Topic, e.Kind)
	if e.SchemaID != 0 {
		s += fmt.Sprintf(" (schema id %d)", e.SchemaID)
	}
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	switch e.Kind {
	case ErrUnknownSchema:
		s += "; register it with `databus schemas register`, or look for a producer that uses another registry"
	case ErrUnavailable:
		s += "; check registry.url and that the registry answers"
	}
	return s
}

func (e *Error) Unwrap() error { return e.Kind }
