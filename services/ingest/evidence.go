package ingest

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/identity"
	"databus/pkg/stream"
	"databus/schemas"
	"databus/schemas/event"
)

// storeHistory holds, for each record, what the evidence loop must remember: when the record was first seen, and its
// recent request ids. Key: account/record key.
const storeHistory = "history"

// evidenceLoop turns databus.records into identity.observations, exactly once: the newest accepted version of each record
// is one piece of evidence. It skips repeats by the same function as every other reader.
func (s *Service) evidenceLoop() loop {
	return loop{stores: []stream.Store{{Name: storeHistory}}, handlers: func(int32) stream.Handlers {
		return stream.Handlers{Inputs: map[string]func(*stream.Tx, *kgo.Record) error{schemas.DatabusRecords: s.onRecord}}
	}}
}

func (s *Service) onRecord(tx *stream.Tx, rec *kgo.Record) error {
	ctx := tx.Context()
	var record event.DatabusRecord
	if err := s.records.Decode(ctx, rec.Value, &record); err != nil {
		return err
	}
	in := identity.Input{Record: &record, Offset: rec.Offset, AppendTime: rec.Timestamp}
	if err := in.Validate(); err != nil {
		return stream.Poison(err.Error())
	}
	key := []byte(schemas.JoinKey(record.Account, record.RecordKey))
	stored, err := tx.Get(storeHistory, key)
	if err != nil {
		return err
	}
	firstSeen, recent, err := parseHistory(stored)
	if err != nil {
		return err
	}
	if firstSeen.IsZero() {
		firstSeen = rec.Timestamp
	}
	recent, repeat := recent.Accept(record.RequestID, rec.Timestamp)
	if repeat {
		s.metrics.evidence.WithLabelValues("repeat").Inc()
		return nil
	}
	o, err := s.resolver.Observation(ctx, &in, firstSeen)
	if identity.IsDead(err) {
		// As for the applier: it leaves no trace, so the request sent again is no repeat of it.
		s.metrics.evidence.WithLabelValues("dead").Inc()
		return nil
	}
	if err != nil {
		return stream.Wait(err)
	}
	tx.Put(storeHistory, key, history(firstSeen, recent))
	value, err := s.observations.Encode(ctx, o)
	if err != nil {
		return err
	}
	tx.Emit(schemas.IdentityObservations, []byte(o.EvidenceID), value)
	s.metrics.evidence.WithLabelValues("observed").Inc()
	return nil
}

// history is a row of storeHistory: first seen (8 bytes, microseconds since 1970 UTC, big endian), then the recent ids.
func history(firstSeen time.Time, recent identity.Recent) []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 8+24*len(recent)), uint64(firstSeen.UnixMicro()))
	return append(b, recent.Bytes()...)
}

func parseHistory(b []byte) (time.Time, identity.Recent, error) {
	if len(b) == 0 {
		return time.Time{}, nil, nil
	}
	if len(b) < 8 {
		return time.Time{}, nil, fmt.Errorf("reading store %s: a row of %d bytes; the state directory is damaged, remove it to restore it from the changelog", storeHistory, len(b))
	}
	recent, err := identity.ParseRecent(b[8:])
	if err != nil {
		return time.Time{}, nil, fmt.Errorf("reading store %s: %w", storeHistory, err)
	}
	return time.UnixMicro(int64(binary.BigEndian.Uint64(b))), recent, nil
}
