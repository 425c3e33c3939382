package history

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"databus/pkg/blob"
	"databus/schemas"
	"databus/schemas/codec"
)

// Restorer replays a topic's archive into another topic: the same records in the same partitions and order, with keys,
// headers, timestamps and tombstones. Dead letters are not in the archive and stay where they are.
//
// Nobody else may write to the new topic meanwhile: it is noticed, and ends the restore. A restore that was ended at any
// moment is run again with the same files of state and mapping, and goes on where the new topic ends; what a dead run sent
// without noting it is compared with the archive row by row.
type Restorer struct {
	Bucket blob.Bucket
	// Prefix is the archiver's, Topic the archived topic.
	Prefix, Topic string
	// To is the new topic, on the cluster that Kafka names. If it does not exist, it is made, without retention.
	To    string
	Kafka []kgo.Opt
	// Registry is the new topic's: the objects' schemas are registered under the subject <To>-value.
	Registry codec.Registry
	// Append allows a new topic that holds records already.
	Append bool
	// State and Offsets are the paths of the state and of the mapping of offsets, a Moved per line.
	State, Offsets string
	// Workers are partitions that are restored at the same time.
	Workers int
	// Note is told what an operator should know; it may be nil.
	Note func(string)
}

// Restored sums a run up.
type Restored struct {
	Files, Partitions int
	Rows              int64
	// Found are rows that an earlier run had sent without noting it.
	Found int64
	// DeadLetters are records of the ranges that the archive counts and does not hold.
	DeadLetters int64
}

// restore is a Run.
type restore struct {
	*Restorer
	client     *kgo.Client
	adm        *kadm.Client
	appendTime bool
	journal    *journal
	ends       map[int32]int64 // of the new topic, at the start

	mu  sync.Mutex
	ids map[string]int // schema's text to the new registry's id
	sum Restored
}

// Run restores what is not restored yet.
func (r *Restorer) Run(ctx context.Context) (sum Restored, err error) {
	listing, err := List(ctx, r.Bucket, r.Prefix, r.Topic)
	if err != nil {
		return sum, fmt.Errorf("listing the archive: %w", err)
	}
	parts := listing.Partitions()
	if len(parts) == 0 {
		return sum, fmt.Errorf("there is no object of topic %s below %q in %s", r.Topic, r.Prefix, r.Bucket)
	}
	t := &restore{Restorer: r, ids: map[string]int{}}
	if t.client, err = kgo.NewClient(r.Kafka...); err != nil {
		return sum, fmt.Errorf("configuring the Kafka client: %w", err)
	}
	t.adm = kadm.NewClient(t.client)
	maxBytes, err := t.target(ctx, listing)
	if err == nil {
		err = t.open(ctx)
	}
	t.client.Close()
	if err != nil {
		return sum, err
	}
	defer func() { err = errors.Join(err, t.journal.close()) }()
	// An idempotent producer keeps each partition's order and writes nothing twice.
	t.client, err = kgo.NewClient(append(append([]kgo.Opt{}, r.Kafka...),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.RequiredAcks(kgo.AllISRAcks()), kgo.ProducerBatchMaxBytes(maxBytes),
		kgo.MaxBufferedRecords(20_000), kgo.MaxBufferedBytes(64<<20), kgo.ProducerLinger(5*time.Millisecond))...)
	if err != nil {
		return sum, fmt.Errorf("configuring the Kafka client: %w", err)
	}
	defer t.client.Close()
	t.adm = kadm.NewClient(t.client)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(max(1, r.Workers))
	for _, objects := range parts {
		g.Go(func() error {
			if err := t.partition(gctx, objects); err != nil {
				return fmt.Errorf("restoring %s/%d: %w", r.Topic, objects[0].Partition, err)
			}
			return nil
		})
	}
	err = g.Wait()
	if err == nil {
		err = t.check(ctx)
	}
	return t.sum, err
}

// note tells an operator something.
func (t *restore) note(format string, args ...any) {
	if t.Note != nil {
		t.Note(fmt.Sprintf(format, args...))
	}
}

// target makes sure that the new topic can take the records as they are. It returns its longest batch, in bytes.
func (t *restore) target(ctx context.Context, l *Listing) (maxBytes int32, err error) {
	need := l.Objects[len(l.Objects)-1].Partition + 1
	details, err := t.adm.ListTopics(ctx, t.To)
	if err != nil {
		return 0, fmt.Errorf("asking for topic %s: %w", t.To, err)
	}
	if !details.Has(t.To) {
		if source, ok := schemas.Lookup(t.Topic); ok {
			need = max(need, source.Partitions)
		}
		if err := t.create(ctx, need); err != nil {
			return 0, err
		}
	} else if n := len(details[t.To].Partitions); int32(n) < need {
		return 0, fmt.Errorf("topic %s has %d partitions, and the archive's are numbered up to %d; restore to a topic with %d or more", t.To, n, need-1, need)
	}
	configs, err := t.adm.DescribeTopicConfigs(ctx, t.To)
	if err != nil {
		return 0, fmt.Errorf("asking for the configuration of %s: %w", t.To, err)
	}
	config, err := configs.On(t.To, nil)
	if err = errors.Join(err, config.Err); err != nil {
		return 0, fmt.Errorf("asking for the configuration of %s: %w", t.To, err)
	}
	values := map[string]string{}
	for _, c := range config.Configs {
		values[c.Key] = c.MaybeValue()
	}
	t.appendTime = values["message.timestamp.type"] == "LogAppendTime"
	oldest := l.Objects[0].Hour
	for _, o := range l.Objects {
		oldest = min(oldest, o.Hour)
	}
	begin, err := time.Parse("dt=2006-01-02/hr=15", oldest)
	if err != nil {
		return 0, err
	}
	retention, _ := strconv.ParseInt(values["retention.ms"], 10, 64)
	switch {
	case t.appendTime:
		t.note("%s has LogAppendTime: its records get the time of their restoring; a topic with message.timestamp.type=CreateTime keeps the archived ones", t.To)
	case retention > 0 && strings.Contains(values["cleanup.policy"], "delete") && time.Since(begin) > time.Duration(min(retention, 1<<40))*time.Millisecond:
		return 0, fmt.Errorf("topic %s has retention.ms=%d, and the archive begins in the hour %s: brokers would delete what is restored; set retention.ms=-1, or restore to a new topic",
			t.To, retention, begin.Format("2006-01-02T15Z"))
	}
	if strings.Contains(values["cleanup.policy"], "compact") {
		t.note("%s is compacted: of each key only the newest record will stay", t.To)
	}
	largest, err := strconv.ParseInt(values["max.message.bytes"], 10, 32)
	if err != nil || largest < 1024 {
		largest = 1_000_012 // the brokers' default
	}
	return int32(largest), nil
}

// create makes the new topic so that it keeps what it gets.
func (t *restore) create(ctx context.Context, partitions int32) error {
	forever, cleanup, kind := "-1", "delete", "CreateTime"
	_, err := t.adm.CreateTopic(ctx, partitions, -1, map[string]*string{
		"retention.ms": &forever, "cleanup.policy": &cleanup, "message.timestamp.type": &kind,
	}, t.To)
	if err != nil {
		return fmt.Errorf("creating topic %s: %w", t.To, err)
	}
	t.note("made topic %s with %d partitions, CreateTime and no retention", t.To, partitions)
	for end := time.Now().Add(30 * time.Second); ; {
		listed, err := t.adm.ListEndOffsets(ctx, t.To)
		if err = errors.Join(err, listed.Error()); err == nil && len(listed[t.To]) == int(partitions) {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("waiting for topic %s to be ready: %w", t.To, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// open loads or begins the journal, and notes where the new topic ends.
func (t *restore) open(ctx context.Context) error {
	meta, err := t.adm.BrokerMetadata(ctx)
	if err != nil {
		return fmt.Errorf("asking for the cluster's id: %w", err)
	}
	if t.ends, err = t.newEnds(ctx); err != nil {
		return err
	}
	fresh := restoreState{Topic: t.Topic, To: t.To, Cluster: meta.Cluster, Partitions: map[int32]*restorePartAt{}}
	var begun bool
	if t.journal, begun, err = openJournal(t.State, t.Offsets, fresh); err != nil {
		return err
	}
	if begun {
		return nil
	}
	for p, end := range t.ends {
		if end > 0 && !t.Append {
			err = fmt.Errorf("topic %s is not empty: partition %d ends at offset %d; restore to an empty topic, go on with the state of the run that wrote it (--state), or add to what is there with --append",
				t.To, p, end)
			break
		}
		t.journal.state.Partitions[p] = &restorePartAt{Next: -1, NewNext: end}
	}
	// Saved before anything is sent: from now on, what is behind these ends is this restore's.
	if err == nil {
		err = t.journal.save()
	}
	if err != nil {
		return errors.Join(err, t.journal.close())
	}
	return nil
}

func (t *restore) newEnds(ctx context.Context) (map[int32]int64, error) {
	listed, err := t.adm.ListEndOffsets(ctx, t.To)
	if err = errors.Join(err, listed.Error()); err != nil {
		return nil, fmt.Errorf("asking for the ends of %s: %w", t.To, err)
	}
	ends := map[int32]int64{}
	listed.Each(func(o kadm.ListedOffset) { ends[o.Partition] = o.Offset })
	return ends, nil
}

// check compares the new topic's ends with what was sent.
func (t *restore) check(ctx context.Context) error {
	ends, err := t.newEnds(ctx)
	if err != nil {
		return err
	}
	for p, at := range t.journal.state.Partitions {
		if ends[p] != at.NewNext {
			return fmt.Errorf("%s/%d ends at offset %d, and the restored records at %d: %s", t.To, p, ends[p], at.NewNext, foreign)
		}
	}
	return nil
}

const foreign = "somebody else wrote to it meanwhile; stop them, delete the topic and the restore's files, and restore again"

// id registers an object's schema for the new topic, once.
func (t *restore) id(ctx context.Context, schema string) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if id, ok := t.ids[schema]; ok {
		return id, nil
	}
	id, err := t.Registry.Register(ctx, t.To+"-value", schema)
	if err != nil {
		return 0, err
	}
	t.ids[schema] = id
	return id, nil
}
