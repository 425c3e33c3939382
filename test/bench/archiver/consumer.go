package archiver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"

	"github.com/parquet-go/parquet-go"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"databus/schemas"
	"databus/test/process"
)

// consumer is ParquetConsumer.java.
type consumer struct {
	b         *bench
	java      string
	classPath string
	bucket    string
	group     string
	next      string // the group of the second time
	input     io.WriteCloser
}

// Room for eight open files of two threads, each with a row group of 32 MiB, and for what fetches bring.
var consumerJVM = []string{"-Xms512m", "-Xmx1g", "-XX:+UseParallelGC"}

const (
	consumerRows    = "250000" // of a file: about 20 MB of Databus records
	consumerThreads = "2"
)

func newConsumer(ctx context.Context, b *bench) (contender, error) {
	java, classPath, err := build(ctx)
	return &consumer{b: b, java: java, classPath: classPath}, err
}

func (c *consumer) name() string                  { return "consumer" }
func (c *consumer) done()                         { _ = c.input.Close() }
func (c *consumer) stop(p *process.Program) error { return p.Kill() } // it runs until then

func (c *consumer) prepare(_ context.Context, bucket string, n int) (*exec.Cmd, error) {
	b := c.b
	c.bucket, c.group, c.next = bucket, fmt.Sprintf("bench-consumer-%d-cold", n), fmt.Sprintf("bench-consumer-%d-warm", n)
	args := append(slices.Clone(consumerJVM), "-cp", c.classPath, "databus.bench.ParquetConsumer",
		b.addr, b.registry, c.group+","+c.next, b.store.Endpoint, b.store.Region, b.store.AccessKey, b.store.SecretKey, bucket,
		b.path(fmt.Sprint("consumer-", n)), consumerRows, consumerThreads, schemas.UsageEvents, schemas.DatabusRecords)
	cmd := exec.Command(c.java, args...)
	var err error
	if c.input, err = cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("making a pipe: %w", err)
	}
	return cmd, nil
}

// again lets it copy everything once more, in the same JVM.
func (c *consumer) again() error {
	c.group = c.next
	if _, err := fmt.Fprintln(c.input); err != nil {
		return fmt.Errorf("asking the consumer for more: %w", err)
	}
	return nil
}

// progress is the sum of the committed offsets: the topics have neither transactions nor holes.
func (c *consumer) progress(ctx context.Context) (int64, error) {
	offsets, err := c.b.admin.FetchOffsets(ctx, c.group)
	if errors.Is(err, kerr.GroupIDNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("asking for the consumer's offsets: %w", err)
	}
	n := int64(0)
	offsets.Each(func(o kadm.OffsetResponse) { n += max(0, o.At) })
	return n, nil
}

// stored adds up the footers of all objects.
func (c *consumer) stored(ctx context.Context) (s stored, err error) {
	err = c.b.list(ctx, c.bucket, c.group+"/", func(key string, size int64) error {
		if !strings.HasSuffix(key, ".parquet") {
			return nil
		}
		f, err := parquet.OpenFile(object{ctx, c.b.store.Client(), c.bucket, key}, size, parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true))
		if err != nil {
			return fmt.Errorf("opening %s: %w", key, err)
		}
		s.rows, s.bytes, s.objects = s.rows+f.NumRows(), s.bytes+size, s.objects+1
		return nil
	})
	return s, err
}
