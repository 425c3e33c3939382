package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/schemas"
	"databus/schemas/codec"
)

// A line is a record as it is printed.
type line struct {
	Partition int32           `json:"partition"`
	Offset    int64           `json:"offset"`
	Timestamp string          `json:"timestamp"` // RFC 3339, milliseconds
	Key       *string         `json:"key"`
	KeyBytes  []byte          `json:"key_bytes,omitempty"` // base64, instead of a key that is not text
	Headers   []header        `json:"headers,omitempty"`
	SchemaID  int             `json:"schema_id,omitempty"`
	Value     json.RawMessage `json:"value,omitempty"`
	Error     string          `json:"error,omitempty"`
	Bytes     []byte          `json:"bytes,omitempty"` // base64, instead of a value that cannot be decoded
}

type header struct {
	Key        string  `json:"key"`
	Value      *string `json:"value,omitempty"`
	ValueBytes []byte  `json:"value_bytes,omitempty"` // base64, instead of a value that is not text
}

// A printer decodes and prints the records of one topic.
type printer struct {
	codec *codec.Codec
	// topic whose schema the values have: a dead-letter topic's source.
	topic string
	// raw says that values need not be events at all.
	raw bool
	// undecodable counts values that should have been events.
	undecodable int
}

func newPrinter(topic string, c *codec.Codec) *printer {
	source, dead := strings.CutSuffix(topic, ".dlq")
	t, known := schemas.Lookup(source)
	return &printer{codec: c, topic: source, raw: dead || known && t.Schema == ""}
}

// print writes one line. It fails only if the registry cannot be asked or the writer fails.
func (p *printer) print(ctx context.Context, w io.Writer, rec *kgo.Record, format string) error {
	l := line{Partition: rec.Partition, Offset: rec.Offset, Timestamp: rec.Timestamp.UTC().Format("2006-01-02T15:04:05.000Z07:00")}
	if rec.Key != nil {
		l.Key, l.KeyBytes = text(rec.Key)
	}
	for _, h := range rec.Headers {
		v, b := text(h.Value)
		l.Headers = append(l.Headers, header{Key: h.Key, Value: v, ValueBytes: b})
	}
	if err := p.value(ctx, rec, &l); err != nil {
		return err
	}
	if format == "text" {
		_, err := fmt.Fprintln(w, l.text())
		return err
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(l); err != nil {
		return fmt.Errorf("printing offset %d of partition %d: %w", rec.Offset, rec.Partition, err)
	}
	_, err := w.Write(b.Bytes())
	return err
}

func (p *printer) value(ctx context.Context, rec *kgo.Record, l *line) error {
	if rec.Value == nil {
		l.Value = json.RawMessage("null")
		return nil
	}
	id, _, _, err := p.codec.Writer(ctx, p.topic, rec.Value)
	if err == nil {
		l.SchemaID = id
		var v []byte
		if v, err = p.codec.JSON(ctx, p.topic, rec.Value); err == nil && json.Valid(v) {
			l.Value = v
			return nil
		} else if err == nil {
			err = errors.New("the value has no JSON form, such as a number that is not finite")
		}
	}
	if errors.Is(err, codec.ErrUnavailable) {
		return err
	}
	if !p.raw {
		p.undecodable++
	}
	l.Error, l.Bytes = oneLine(err), rec.Value
	return nil
}

// text is the line for people.
func (l line) text() string {
	key := "-"
	switch {
	case l.Key != nil:
		key = *l.Key
	case l.KeyBytes != nil:
		key = fmt.Sprintf("%x", l.KeyBytes)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d@%d  %s  %s", l.Partition, l.Offset, l.Timestamp, key)
	for _, h := range l.Headers {
		if h.Value != nil {
			fmt.Fprintf(&b, "  %s=%q", h.Key, *h.Value)
		} else {
			fmt.Fprintf(&b, "  %s=%x", h.Key, h.ValueBytes)
		}
	}
	if l.Error != "" {
		fmt.Fprintf(&b, "  %d bytes: %s", len(l.Bytes), l.Error)
	} else {
		fmt.Fprintf(&b, "  %s", l.Value)
	}
	return b.String()
}

// text returns bytes as text if they are, else as bytes.
func text(b []byte) (*string, []byte) {
	if !utf8.Valid(b) {
		return nil, b
	}
	s := string(b)
	return &s, nil
}
