package service

import (
	"fmt"
	"log/slog"
)

// A Secret is a string that never prints itself: formatting, logging and marshalling give "[redacted]", or nothing when
// it is empty. [Secret.Reveal] gives the string.
type Secret string

const redacted = "[redacted]"

// Reveal returns the secret itself.
func (s Secret) Reveal() string { return string(s) }

func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return redacted
}

// GoString serves %#v.
func (s Secret) GoString() string { return fmt.Sprintf("%q", s.String()) }

// Format serves every verb, %x and %q included.
func (s Secret) Format(f fmt.State, verb rune) { fmt.Fprint(f, s.String()) }

// LogValue serves log/slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText serves encoding/json and everything else that asks for text.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalYAML serves YAML encoders.
func (s Secret) MarshalYAML() (any, error) { return s.String(), nil }
