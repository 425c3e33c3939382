package archiver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/history"
	"databus/pkg/topics"
	"databus/schemas"
	"databus/test/process"
	"databus/test/servers/fetch"
)

// A contender copies usage.events and databus.records to Parquet objects in a bucket.
type contender interface {
	name() string
	// prepare gives it an empty state and no committed offsets for its run n, and says how it is started.
	prepare(ctx context.Context, bucket string, n int) (*exec.Cmd, error)
	// progress is the number of rows that are committed, as far as it can be had cheaply.
	progress(ctx context.Context) (int64, error)
	// stored looks at what was written.
	stored(ctx context.Context) (stored, error)
	stop(p *process.Program) error
	done() // with the run
}

func (b *bench) path(name string) string { return filepath.Join(b.o.Dir, name) }

// warmer is a contender that can do the work a second time in the same process.
type warmer interface{ again() error }

// ours is the service's own binary.
type ours struct {
	b        *bench
	manifest *history.Manifest
}

func newOurs(ctx context.Context, b *bench) (contender, error) {
	return &ours{b: b}, fetch.Run(ctx, ".", nil, "go", "build", "-o", b.path("archiver"), "databus/services/archiver/cmd/archiver")
}

func (o *ours) name() string                  { return "databus" }
func (o *ours) stop(p *process.Program) error { return p.Stop() }

func (o *ours) prepare(ctx context.Context, bucket string, n int) (*exec.Cmd, error) {
	b := o.b
	if err := b.fresh(ctx); err != nil {
		return nil, err
	}
	var err error
	o.manifest, err = history.Follow(ctx, []kgo.Opt{kgo.SeedBrokers(b.addr), kgo.FetchMaxWait(100 * time.Millisecond)}, b.codec, "", nil)
	if err != nil {
		return nil, err
	}
	var args []string
	for _, s := range append([]string{
		"kafka.brokers=" + b.addr, "registry.url=" + b.registry, "instance.id=bench", "instance.state_dir=" + b.path(fmt.Sprint("state-", n)),
		"http.listen=", "log.level=warn", "archiver.idle=5s",
		"bucket.url=" + b.store.BucketURL(bucket),
	}, b.o.Set...) {
		args = append(args, "--set", s)
	}
	cmd := exec.Command(b.path("archiver"), args...)
	cmd.Env = append(cmd.Environ(), "AWS_ACCESS_KEY_ID="+b.store.AccessKey, "AWS_SECRET_ACCESS_KEY="+b.store.SecretKey)
	return cmd, nil
}

func (o *ours) done() { o.manifest.Close() }

func (o *ours) stored(context.Context) (s stored, err error) {
	for _, f := range o.manifest.Files() {
		s.rows, s.bytes, s.objects = s.rows+f.Rows+f.DeadLetters, s.bytes+f.Bytes, s.objects+1
	}
	return s, nil
}

func (o *ours) progress(ctx context.Context) (int64, error) {
	s, err := o.stored(ctx)
	return s.rows, err
}

// fresh forgets what the run before committed.
func (b *bench) fresh(ctx context.Context) error {
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		_, _ = b.admin.LeaveGroup(ctx, kadm.LeaveGroup("archiver").InstanceIDs("archiver.archiver.bench"))
		_, _ = b.admin.DeleteGroups(ctx, "archiver")
		_, _ = b.admin.DeleteTopics(ctx, schemas.ArchiveFiles)
		groups, err := b.admin.ListGroups(ctx)
		listed, err2 := b.admin.ListTopics(ctx, schemas.ArchiveFiles)
		_, there := groups["archiver"]
		if err == nil && err2 == nil && !there && !listed.Has(schemas.ArchiveFiles) {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the run before does not go away: %w", errors.Join(err, err2))
		}
	}
	_, err := topics.Apply(ctx, b.admin, schemas.WithDeadLetters(), topics.Options{})
	return err
}

// object reads an object of the bucket by ranges.
type object struct {
	ctx    context.Context
	client *s3.Client
	bucket string
	key    string
}

func (o object) ReadAt(p []byte, at int64) (int, error) {
	r, err := o.client.GetObject(o.ctx, &s3.GetObjectInput{Bucket: &o.bucket, Key: &o.key, Range: aws.String(fmt.Sprintf("bytes=%d-%d", at, at+int64(len(p))-1))})
	if err != nil {
		return 0, fmt.Errorf("reading %s: %w", o.key, err)
	}
	n, err := io.ReadFull(r.Body, p)
	return n, errors.Join(err, r.Body.Close())
}

// list calls fn for each object of a bucket below a prefix.
func (b *bench) list(ctx context.Context, bucket, prefix string, fn func(key string, size int64) error) error {
	pages := s3.NewListObjectsV2Paginator(b.store.Client(), &s3.ListObjectsV2Input{Bucket: &bucket, Prefix: &prefix})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return fmt.Errorf("listing %s: %w", bucket, err)
		}
		for _, x := range page.Contents {
			if err := fn(*x.Key, *x.Size); err != nil {
				return err
			}
		}
	}
	return nil
}

// read reads a whole object.
func (b *bench) read(ctx context.Context, bucket, key string) ([]byte, error) {
	got, err := b.store.Client().GetObject(ctx, &s3.GetObjectInput{Bucket: &bucket, Key: &key})
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", key, err)
	}
	data, err := io.ReadAll(got.Body)
	return data, errors.Join(err, got.Body.Close())
}
