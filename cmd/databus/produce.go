package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/schemas"
	"databus/schemas/codec"
)

type produceCmd struct {
	Topic    string   `arg:"" predictor:"topic" help:"Topic of the catalogue."`
	Value    []string `arg:"" optional:"" help:"Events as JSON objects; without any, one per line is read from --file or standard input."`
	File     string   `short:"f" placeholder:"FILE" predictor:"file" help:"Read events from a file, one JSON object per line; - is standard input."`
	Key      *string  `short:"k" placeholder:"KEY" help:"Key of all the events."`
	KeyField string   `placeholder:"FIELD" help:"Take each event's key from this field of it."`
	Header   []string `short:"H" placeholder:"NAME=VALUE" sep:"none" help:"Header of all the events; may be repeated."`
	Null     bool     `help:"Produce one tombstone: no value, which deletes the key from a compacted topic. Needs --key."`
}

func (produceCmd) Help() string {
	return `Events are checked against the topic's schema, encoded in Avro in the registry's wire format, and sent to the
partition that the catalogue gives their key, with acks=all by an idempotent producer. Fields that have a default may
be left out, fields that the schema does not know are errors, and timestamps are microseconds since 1970.

Where the catalogue's key is one field (account, job id, ...), it is taken from there; otherwise say --key or
--key-field. For each event topic/partition@offset is printed. At the first bad line producing stops with an error that
names the line; the lines before it have been produced, itself and those behind it have not.

Examples:

    databus produce usage.events '{"event_id":"e1","account":"acme","pack":"person","occurred_at":'$(date +%s)'000000}'

    echo '{"job_id":"j1"}' | databus produce rebuild.requests --header reason=try

    databus produce usage.contracts --key former-customer --null
`
}

// maxLine bounds a line of input: the largest message with room for JSON's overhead.
const maxLine = 8 << 20

// Run produces everything that it is given and returns the first error.
func (c produceCmd) Run(ctx context.Context, g *Globals) error {
	t, ok := schemas.Lookup(c.Topic)
	if !ok {
		return unknownTopic(c.Topic)
	}
	if t.Schema == "" {
		return fmt.Errorf("topic %s takes original bytes, not events; produce to its source topic instead", t.Name)
	}
	headers, err := parseHeaders(c.Header)
	if err != nil {
		return err
	}
	keys, err := c.keys(t)
	if err != nil {
		return err
	}
	lines, done, err := c.lines(g.In)
	if err != nil {
		return err
	}
	defer done()

	cdc, err := g.codec()
	if err != nil {
		return err
	}
	cl, err := g.kafka(ctx, kgo.RequiredAcks(kgo.AllISRAcks()), kgo.MaxBufferedRecords(2000))
	if err != nil {
		return err
	}
	defer cl.Close()
	if err := ready(ctx, cl, t); err != nil {
		return err
	}
	p := &producer{client: cl, codec: cdc, topic: t, headers: headers, out: bufio.NewWriter(g.Out)}
	if c.Null {
		p.produce(ctx, []byte(*c.Key), nil)
		return p.finish(ctx, nil)
	}
	return p.finish(ctx, g.registryHint(p.all(ctx, lines, keys)))
}

// lines returns the events' source, one JSON object per line, and how to close it.
func (c produceCmd) lines(in io.Reader) (io.Reader, func(), error) {
	given := 0
	for _, b := range []bool{len(c.Value) > 0, c.File != "", c.Null} {
		if b {
			given++
		}
	}
	if given > 1 {
		return nil, nil, errors.New("events come from arguments, from --file or from --null: name one of them")
	}
	switch {
	case len(c.Value) > 0:
		// A line break inside of an argument is white space in JSON, where it cannot be part of a string.
		values := make([]string, len(c.Value))
		for i, v := range c.Value {
			values[i] = strings.ReplaceAll(v, "\n", " ")
		}
		return strings.NewReader(strings.Join(values, "\n")), func() {}, nil
	case c.File != "" && c.File != "-":
		f, err := os.Open(c.File)
		if err != nil {
			return nil, nil, fmt.Errorf("reading events: %w", err)
		}
		return f, func() { _ = f.Close() }, nil
	}
	return in, func() {}, nil
}

// ready refuses a topic that is missing, or whose number of partitions would send keys to the wrong ones.
func ready(ctx context.Context, cl *kgo.Client, t schemas.Topic) error {
	found, err := kadm.NewClient(cl).ListTopics(ctx, t.Name)
	if err != nil {
		return fmt.Errorf("asking the brokers for topic %s: %w", t.Name, err)
	}
	d, ok := found[t.Name]
	if !ok || d.Err != nil {
		return missingTopic(t.Name, d.Err)
	}
	if n := len(d.Partitions); n != int(t.Partitions) {
		return fmt.Errorf("topic %s has %d partitions, the catalogue says %d, so keys would go to wrong ones; see `databus topics check %s`", t.Name, n, t.Partitions, t.Name)
	}
	return nil
}

func missingTopic(name string, err error) error {
	if err == nil {
		return fmt.Errorf("the brokers have no topic %s; create it with `databus topics apply %s`", name, name)
	}
	return fmt.Errorf("the brokers give no topic %s; create it with `databus topics apply %s` (%w)", name, name, err)
}

func unknownTopic(name string) error {
	return fmt.Errorf("topic %s is not in the catalogue; `databus topics list` names those that are", name)
}

func parseHeaders(given []string) ([]kgo.RecordHeader, error) {
	var headers []kgo.RecordHeader
	for _, h := range given {
		name, value, ok := strings.Cut(h, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("header %q is not of the form NAME=VALUE", h)
		}
		headers = append(headers, kgo.RecordHeader{Key: name, Value: []byte(value)})
	}
	return headers, nil
}

// A producer sends records and reports them in the order in which the brokers acknowledge them.
type producer struct {
	client  *kgo.Client
	codec   *codec.Codec
	topic   schemas.Topic
	headers []kgo.RecordHeader

	mu  sync.Mutex // the client's promises run on its own goroutine
	out *bufio.Writer
	err error // the first failure
}

// all produces every line of r until one of them or the brokers fail.
func (p *producer) all(ctx context.Context, r io.Reader, keys keyFunc) error {
	fields := newFieldCheck(p.topic.AvroSchema())
	scan := bufio.NewScanner(r)
	scan.Buffer(make([]byte, 64<<10), maxLine)
	line := 0
	for scan.Scan() {
		line++
		if len(strings.TrimSpace(scan.Text())) == 0 {
			continue
		}
		if p.failed() != nil || ctx.Err() != nil {
			return ctx.Err()
		}
		value, err := p.codec.FromJSON(ctx, p.topic.Name, scan.Bytes())
		if err == nil {
			err = fields.check(scan.Bytes())
		}
		var key []byte
		if err == nil {
			key, err = keys(scan.Bytes())
		}
		if err != nil {
			return fmt.Errorf("line %d: %w", line, err)
		}
		p.produce(ctx, key, value)
	}
	if err := scan.Err(); err != nil {
		return fmt.Errorf("reading line %d: %w", line+1, err)
	}
	return nil
}

// produce blocks while too many records are on their way.
func (p *producer) produce(ctx context.Context, key, value []byte) {
	p.client.Produce(ctx, &kgo.Record{Topic: p.topic.Name, Key: key, Value: value, Headers: p.headers}, func(r *kgo.Record, err error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if err == nil {
			_, err = fmt.Fprintf(p.out, "%s/%d@%d\n", r.Topic, r.Partition, r.Offset)
		}
		if err != nil && p.err == nil {
			p.err = fmt.Errorf("producing to %s: %w", p.topic.Name, err)
		}
	})
}

func (p *producer) failed() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// finish waits for what is on its way and returns the first error, the brokers' before that of the input.
func (p *producer) finish(ctx context.Context, input error) error {
	flushed := p.client.Flush(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	printed := p.out.Flush()
	for _, err := range []error{p.err, input, flushed, printed} {
		if err != nil {
			return err
		}
	}
	return nil
}
