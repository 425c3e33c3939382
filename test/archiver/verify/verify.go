// Package verify proves that an archive holds every committed record exactly once. It shares no code with the archiver: it
// lists the bucket with a plain S3 client, lets DuckDB and pyarrow read the objects, and compares what they find with the topic,
// its dead letters, the group's offsets and the manifest.
//
// Promise: Lost counts committed offsets that no object holds, Double those that more than one place holds; Problems names
// everything else that does not fit, such as a gap between two objects or a manifest that disagrees.
//
// Failure: what cannot be read is an error, not a finding. The archive must be at rest.
package verify

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
	"databus/test/pytool"
	"databus/test/servers"
)

// Options say what to verify.
type Options struct {
	Kafka  []kgo.Opt
	Codec  *codec.Codec
	S3     servers.S3Config
	Bucket string
	// Prefix is the archiver's, Topic the archived topic, Group the archiver's group.
	Prefix, Topic, Group string
	// Dir takes a copy of the objects.
	Dir string
}

// Report is what was found.
type Report struct {
	Records, Rows, DeadLetters int64
	Objects                    int
	Lost, Double               int64
	Problems                   []string
	// Files is the manifest, by object.
	Files map[string]event.ArchiveFile
}

func (r *Report) String() string {
	return fmt.Sprintf("%d records, %d rows and %d dead letters in %d objects: %d lost, %d double, %d other problems",
		r.Records, r.Rows, r.DeadLetters, r.Objects, r.Lost, r.Double, len(r.Problems))
}

// Err is nil when everything is as it should be.
func (r *Report) Err() error {
	if r.Lost == 0 && r.Double == 0 && len(r.Problems) == 0 {
		return nil
	}
	return fmt.Errorf("%v\n%s", r, strings.Join(r.Problems[:min(10, len(r.Problems))], "\n"))
}

func (r *Report) problem(format string, args ...any) {
	r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
}

// object is a file as one reader sees it.
type object struct {
	Path       string            `json:"path"`
	Meta       map[string]string `json:"meta"`
	Partitions []int32           `json:"partitions"`
	Rows       int64             `json:"rows"`
	Runs       [][2]int64        `json:"runs"`

	topic                    string
	partition                int32
	first, next, rows, deads int64
}

// Verify reads everything and compares.
func Verify(ctx context.Context, o Options) (*Report, error) {
	r := &Report{Files: map[string]event.ArchiveFile{}}
	client, err := kgo.NewClient(o.Kafka...)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	records, err := read(ctx, o.Kafka, kadm.NewClient(client), o.Topic)
	if err != nil {
		return nil, err
	}
	letters, err := read(ctx, o.Kafka, kadm.NewClient(client), o.Topic+".dlq")
	if err != nil {
		return nil, err
	}
	dead := map[int32]map[int64]int{}
	for _, list := range letters {
		for _, rec := range list {
			p, err1 := strconv.Atoi(header(rec, "databus-dead-partition"))
			offset, err2 := strconv.ParseInt(header(rec, "databus-dead-offset"), 10, 64)
			if err := errors.Join(err1, err2); err != nil {
				r.problem("dead letter %d: %v", rec.Offset, err)
				continue
			}
			if dead[int32(p)] == nil {
				dead[int32(p)] = map[int64]int{}
			}
			dead[int32(p)][offset]++
		}
	}
	sums, err := download(ctx, o)
	if err != nil {
		return nil, err
	}
	committed, err := kadm.NewClient(client).FetchOffsets(ctx, o.Group)
	if err != nil {
		return nil, err
	}
	ends := map[int32]int64{}
	for p, c := range committed[o.Topic] {
		ends[p] = c.At
	}
	for _, reader := range []string{"duckdb", "pyarrow"} {
		objects, err := look(ctx, reader, o.Dir)
		if err != nil {
			return nil, err
		}
		r.compare(reader, o, objects, records, dead, ends)
	}
	return r, r.manifest(ctx, o, client, sums)
}

var named = regexp.MustCompile(`^(.*/)?([^/]+)/dt=\d{4}-\d\d-\d\d/hr=\d\d/([^/+]+)\+(\d+)\+(\d{20})\.parquet$`)

func look(ctx context.Context, reader, dir string) ([]*object, error) {
	out, err := pytool.Run(ctx, nil, "archive_offsets.py", reader, dir)
	if err != nil {
		return nil, err
	}
	var objects []*object
	if err := json.Unmarshal(out, &objects); err != nil {
		return nil, fmt.Errorf("parsing what %s read: %w", reader, err)
	}
	for _, x := range objects {
		name := named.FindStringSubmatch(x.Path)
		if name == nil || name[2] != name[3] {
			return nil, fmt.Errorf("%s is not named like an object", x.Path)
		}
		p, err := strconv.ParseInt(name[4], 10, 32)
		first, err2 := strconv.ParseInt(name[5], 10, 64)
		if err := errors.Join(err, err2); err != nil {
			return nil, err
		}
		x.topic, x.partition, x.first = name[3], int32(p), first
		for key, to := range map[string]*int64{"next": &x.next, "rows": &x.rows, "dead_letters": &x.deads} {
			if *to, err = strconv.ParseInt(x.Meta[key], 10, 64); err != nil {
				return nil, fmt.Errorf("%s: %s: %w", x.Path, key, err)
			}
		}
		if x.Meta["topic"] != x.topic || x.Meta["partition"] != name[4] || x.Meta["first"] != fmt.Sprint(first) || x.Rows != x.rows ||
			len(x.Partitions) > 1 || len(x.Partitions) == 1 && x.Partitions[0] != x.partition {
			return nil, fmt.Errorf("%s: its footer says %v, its rows %v of partitions %v", x.Path, x.Meta, x.Rows, x.Partitions)
		}
	}
	slices.SortFunc(objects, func(a, b *object) int {
		return cmp.Or(cmp.Compare(a.partition, b.partition), cmp.Compare(a.first, b.first))
	})
	return objects, nil
}

// compare counts each committed record: it is a row of one object, or one dead letter.
func (r *Report) compare(reader string, o Options, objects []*object, records map[int32][]*kgo.Record, dead map[int32]map[int64]int, ends map[int32]int64) {
	found := map[int32]map[int64]int{}
	next := map[int32]int64{}
	r.Objects, r.Rows, r.DeadLetters, r.Records = len(objects), 0, 0, 0
	for _, x := range objects {
		if x.topic != o.Topic {
			continue
		}
		if x.first != next[x.partition] {
			r.problem("%s: %s begins at %d, the object before ends at %d", reader, x.Path, x.first, next[x.partition])
		}
		next[x.partition] = x.next
		if found[x.partition] == nil {
			found[x.partition] = map[int64]int{}
		}
		for _, run := range x.Runs {
			for offset := run[0]; offset <= run[1]; offset++ {
				found[x.partition][offset]++
				if offset < x.first || offset >= x.next {
					r.problem("%s: %s has offset %d, its range is [%d, %d)", reader, x.Path, offset, x.first, x.next)
				}
			}
		}
		in := int64(0)
		for offset := range dead[x.partition] {
			if offset >= x.first && offset < x.next {
				in++
			}
		}
		if in != x.deads {
			r.problem("%s: %s counts %d dead letters, the topic of dead letters has %d", reader, x.Path, x.deads, in)
		}
		r.Rows += x.rows
		r.DeadLetters += x.deads
	}
	for p, list := range records {
		for _, rec := range list {
			r.Records++
			switch n := found[p][rec.Offset] + dead[p][rec.Offset]; {
			case n == 0:
				r.Lost++
				r.problem("%s: offset %d of partition %d is nowhere", reader, rec.Offset, p)
			case n > 1:
				r.Double++
				r.problem("%s: offset %d of partition %d is in %d places", reader, rec.Offset, p, n)
			}
			delete(found[p], rec.Offset)
		}
		if next[p] != ends[p] {
			r.problem("%s: partition %d: the last object ends at %d, committed is %d", reader, p, next[p], ends[p])
		}
	}
	for p, left := range found {
		for offset := range left {
			r.problem("%s: partition %d has a row of offset %d, which the topic has not", reader, p, offset)
		}
	}
}

// manifest compares archive.files with the bucket: the same objects, each announced once, with their sums.
func (r *Report) manifest(ctx context.Context, o Options, client *kgo.Client, sums map[string][32]byte) error {
	events, err := read(ctx, o.Kafka, kadm.NewClient(client), schemas.ArchiveFiles)
	if err != nil {
		return err
	}
	serde := codec.For[event.ArchiveFile](o.Codec, schemas.ArchiveFiles)
	for _, list := range events {
		for _, rec := range list {
			var f event.ArchiveFile
			if err := serde.Decode(ctx, rec.Value, &f); err != nil {
				return err
			}
			if f.Topic != o.Topic {
				continue
			}
			if _, twice := r.Files[f.Object]; twice {
				r.Double++
				r.problem("the manifest announces %s twice", f.Object)
			}
			r.Files[f.Object] = f
			if sum, there := sums[f.Object]; !there || string(sum[:]) != string(f.Sha256) {
				r.problem("the manifest's %s: in the bucket %t, with its checksum %t", f.Object, there, string(sum[:]) == string(f.Sha256))
			}
		}
	}
	for key := range sums {
		if _, ok := r.Files[key]; !ok {
			r.problem("%s is not in the manifest", key)
		}
	}
	return nil
}

// download copies every object, as a listing shows them, and returns their checksums.
func download(ctx context.Context, o Options) (map[string][32]byte, error) {
	c := o.S3.Client()
	prefix := o.Prefix + "/" + o.Topic + "/"
	pages := s3.NewListObjectsV2Paginator(c, &s3.ListObjectsV2Input{Bucket: &o.Bucket, Prefix: &prefix})
	sums := map[string][32]byte{}
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, fmt.Errorf("listing the bucket: %w", err)
		}
		for _, x := range page.Contents {
			if strings.HasPrefix(filepath.Base(*x.Key), "_") {
				continue
			}
			got, err := c.GetObject(ctx, &s3.GetObjectInput{Bucket: &o.Bucket, Key: x.Key})
			if err != nil {
				return nil, fmt.Errorf("reading %s: %w", *x.Key, err)
			}
			data, err := io.ReadAll(got.Body)
			_ = got.Body.Close()
			if err != nil {
				return nil, fmt.Errorf("reading %s: %w", *x.Key, err)
			}
			file := filepath.Join(o.Dir, filepath.FromSlash(*x.Key))
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				return nil, err
			}
			if err := os.WriteFile(file, data, 0o644); err != nil {
				return nil, err
			}
			sums[*x.Key] = sha256.Sum256(data)
		}
	}
	return sums, nil
}

// read gives the committed data records of a topic, by partition.
func read(ctx context.Context, opts []kgo.Opt, admin *kadm.Client, topic string) (map[int32][]*kgo.Record, error) {
	ends, err := admin.ListEndOffsets(ctx, topic)
	if err = errors.Join(err, ends.Error()); err != nil {
		return nil, fmt.Errorf("asking for the ends of %s: %w", topic, err)
	}
	left := map[int32]int64{}
	ends.Each(func(e kadm.ListedOffset) {
		if e.Offset > 0 {
			left[e.Partition] = e.Offset
		}
	})
	c, err := kgo.NewClient(append(slices.Clone(opts), kgo.ConsumeTopics(topic), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.KeepControlRecords(), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))...)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	found := map[int32][]*kgo.Record{}
	for len(left) > 0 {
		fetches := c.PollFetches(ctx)
		if ctx.Err() != nil {
			return nil, fmt.Errorf("reading %s: %v are left: %w", topic, left, ctx.Err())
		}
		fetches.EachRecord(func(rec *kgo.Record) {
			if !rec.Attrs.IsControl() {
				found[rec.Partition] = append(found[rec.Partition], rec)
			}
			if rec.Offset+1 >= left[rec.Partition] {
				delete(left, rec.Partition)
			}
		})
	}
	return found, nil
}

func header(r *kgo.Record, key string) string {
	for _, h := range slices.Backward(r.Headers) {
		if h.Key == key {
			return string(h.Value)
		}
	}
	return ""
}

// Behind counts the partitions with committed records that the group has not passed.
func Behind(ctx context.Context, o Options) (int, error) {
	client, err := kgo.NewClient(o.Kafka...)
	if err != nil {
		return 0, err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	records, err := read(ctx, o.Kafka, admin, o.Topic)
	if err != nil {
		return 0, err
	}
	committed, err := admin.FetchOffsets(ctx, o.Group)
	if err != nil {
		return 0, err
	}
	behind := 0
	for p, list := range records {
		if at, ok := committed.Lookup(o.Topic, p); !ok || at.At <= list[len(list)-1].Offset {
			behind++
		}
	}
	return behind, nil
}

// Read gives the committed data records of a topic, by partition, in order.
func Read(ctx context.Context, opts []kgo.Opt, topic string) (map[int32][]*kgo.Record, error) {
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	return read(ctx, opts, kadm.NewClient(client), topic)
}

// BehindEnds counts the partitions whose end the group has not reached, without reading them: for topics without
// transactions.
func BehindEnds(ctx context.Context, o Options) (int, error) {
	client, err := kgo.NewClient(o.Kafka...)
	if err != nil {
		return 0, err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	ends, err := admin.ListEndOffsets(ctx, o.Topic)
	if err = errors.Join(err, ends.Error()); err != nil {
		return 0, err
	}
	committed, err := admin.FetchOffsets(ctx, o.Group)
	if err != nil {
		return 0, err
	}
	behind := 0
	ends.Each(func(e kadm.ListedOffset) {
		if at, ok := committed.Lookup(o.Topic, e.Partition); e.Offset > 0 && (!ok || at.At < e.Offset) {
			behind++
		}
	})
	return behind, nil
}
