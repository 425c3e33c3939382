package graph

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/blob"
	"databus/pkg/follow"
	"databus/pkg/seal"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

// GenesisVersion is the version id of the genesis graph.
const GenesisVersion = "g1"

// MaxFile is the largest graph file that is loaded, in bytes.
const MaxFile = headerSize + MaxEntries*entrySize + footerSize

// Sink is where graph versions are published.
type Sink struct {
	// Kafka says where the brokers are.
	Kafka  []kgo.Opt
	Codec  *codec.Codec
	Bucket blob.Bucket
	Log    *slog.Logger
}

// BuildFromTopic reads identity.observations up to its end now, without what comes from accounts and records that were
// shredded before, builds the graph, puts its file into the bucket and
// announces the version on identity.graphs. Calling it again with the same version succeeds when the evidence gives the
// same file, and is refused otherwise: versions are immutable.
func BuildFromTopic(ctx context.Context, sink Sink, version string) (*Built, *event.GraphVersion, error) {
	evidence, positions, _, err := sink.evidence(ctx, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("building graph %s: %w", version, err)
	}
	built := evidence.Build()
	published, err := Publish(ctx, sink, version, built, positions)
	return built, published, err
}

// EvidenceOf reads what is left of the evidence that a version was built of: compaction removes what newer observations
// replaced, and shredding more. It returns how many observations came since. The sink needs no bucket.
func EvidenceOf(ctx context.Context, sink Sink, v *event.GraphVersion) (*Set, int64, error) {
	upTo := map[int32]int64{}
	for _, p := range v.Evidence {
		upTo[p.Partition] = p.Offset
	}
	evidence, _, since, err := sink.evidence(ctx, upTo)
	if err != nil {
		return nil, 0, fmt.Errorf("reading the evidence of graph %s: %w", v.Version, err)
	}
	return evidence, since, nil
}

// evidence returns the newest observation of each evidence id, up to these offsets unless they are nil, and counts those
// behind them. The log's order decides, not clocks.
func (s Sink) evidence(ctx context.Context, upTo map[int32]int64) (_ *Set, _ []event.EvidencePosition, since int64, _ error) {
	// Their evidence is withdrawn by the command that shreds; what is still on its way then must not count either.
	shredded, err := seal.ReadShredded(ctx, s.Kafka, s.Codec)
	if err != nil {
		return nil, nil, 0, err
	}
	serde := codec.For[event.Observation](s.Codec, schemas.IdentityObservations)
	newest := NewSet()
	var failed atomic.Pointer[error]
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f, err := follow.Topic(ctx, s.Kafka, schemas.IdentityObservations, func(rec *kgo.Record) {
		if failed.Load() != nil {
			return
		}
		if upTo != nil && rec.Offset >= upTo[rec.Partition] {
			since++
			return
		}
		newest.Delete(string(rec.Key))
		if rec.Value == nil {
			return
		}
		var o event.Observation
		err := serde.Decode(ctx, rec.Value, &o)
		if err == nil && shredded.Evidence(o.Source, o.EvidenceID) {
			return
		}
		var e Evidence
		if err == nil {
			e, err = FromObservation(&o)
		}
		if err == nil {
			e.ID = string(rec.Key) // what the log replaces is known by the key
			newest.Put(e)
		}
		if err != nil {
			// Leaving evidence out would silently split persons.
			err = fmt.Errorf("partition %d, offset %d of %s: %w", rec.Partition, rec.Offset, rec.Topic, err)
			failed.Store(&err)
			cancel()
		}
	})
	if err != nil {
		return nil, nil, 0, err
	}
	err = f.Ready(ctx)
	f.Close()
	if cause := failed.Load(); cause != nil {
		err = *cause
	}
	if err != nil {
		return nil, nil, 0, err
	}
	var positions []event.EvidencePosition
	for partition, offset := range f.Positions() {
		positions = append(positions, event.EvidencePosition{Partition: partition, Offset: offset})
	}
	slices.SortFunc(positions, func(a, b event.EvidencePosition) int { return int(a.Partition - b.Partition) })
	return newest, positions, since, nil
}

// PublishGenesis publishes the empty graph as GenesisVersion. It may be called any number of times.
func PublishGenesis(ctx context.Context, sink Sink) (*event.GraphVersion, error) {
	return Publish(ctx, sink, GenesisVersion, Build(func(func(Evidence) bool) {}), nil)
}

// Publish puts a graph's file into the bucket and announces it. The object is there before the event.
func Publish(ctx context.Context, sink Sink, version string, built *Built, positions []event.EvidencePosition) (*event.GraphVersion, error) {
	sum := sha256.Sum256(built.File)
	stats := built.Stats()
	v := &event.GraphVersion{
		Version: version, Object: "graphs/" + version + ".graph", Sha256: sum[:],
		Identifiers: stats.Identifiers, Persons: stats.Persons, Shared: stats.Shared, Evidence: positions, BuiltAt: time.Now().UTC(),
	}
	if v.Evidence == nil {
		v.Evidence = []event.EvidencePosition{}
	}
	_, err := sink.Bucket.Put(ctx, v.Object, bytes.NewReader(built.File), blob.PutOptions{CreateOnly: true})
	if errors.Is(err, blob.ErrExists) {
		var equal bool
		if equal, err = same(ctx, sink.Bucket, v); err == nil && !equal {
			err = fmt.Errorf("version %s exists already with another content, in %s; choose another version", version, v.Object)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("publishing graph %s: %w", version, err)
	}
	value, err := codec.For[event.GraphVersion](sink.Codec, schemas.IdentityGraphs).Encode(ctx, v)
	if err != nil {
		return nil, fmt.Errorf("publishing graph %s: %w", version, err)
	}
	client, err := kgo.NewClient(append(append([]kgo.Opt{}, sink.Kafka...), kgo.RequiredAcks(kgo.AllISRAcks()))...)
	if err != nil {
		return nil, fmt.Errorf("publishing graph %s: %w", version, err)
	}
	defer client.Close()
	rec := &kgo.Record{Topic: schemas.IdentityGraphs, Key: []byte(version), Value: value}
	if err := client.ProduceSync(ctx, rec).FirstErr(); err != nil {
		return nil, fmt.Errorf("publishing graph %s: %w", version, err)
	}
	if sink.Log != nil {
		sink.Log.Info("graph published", "version", version, "identifiers", stats.Identifiers, "persons", stats.Persons, "shared", stats.Shared)
	}
	return v, nil
}

// same says whether the bucket's object of a version is the announced one.
func same(ctx context.Context, bucket blob.Bucket, v *event.GraphVersion) (_ bool, err error) {
	body, _, err := bucket.Get(ctx, v.Object)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	sum := sha256.New()
	if _, err := io.Copy(sum, body); err != nil {
		return false, err
	}
	return bytes.Equal(sum.Sum(nil), v.Sha256), nil
}
