package archiver

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/archive"
)

// partition is one assigned partition: the range that is being filled, and what is left to do with it. Only the loop of Run
// touches it, except for one worker while the loop waits for that worker.
type partition struct {
	topic string
	id    int32

	// first is the committed offset, and the beginning of the range. uncommitted: nobody has committed it yet.
	first       int64
	uncommitted bool
	// schemaID is the schema of the partition's last object, kept in the metadata of the committed offset: 0 is none.
	schemaID int

	// position is the next offset to read; control records count.
	position int64
	// pending are records that were fetched and not yet taken, because a cut is due before them.
	pending []*kgo.Record

	spool      *spool
	firstTime  int64 // timestamp of the range's first record
	waiting    bool  // a record of the range has been read
	oldest     int64 // its timestamp
	lastAppend time.Time

	due     bool      // the range is cut: [first, position)
	object  *object   // in the bucket, put there or adopted, waiting for the commit
	adopt   *adoption // an object that somebody else put, being compared with the topic
	retryAt time.Time // no attempt before
	pause   time.Duration
	paused  bool   // its fetching is
	stopped string // why it stands still for good
	end     int64  // the topic's high watermark, as of the last fetch

	problem atomic.Pointer[string] // why it waits or stands still; read by health checks
}

func (p *partition) name() string { return fmt.Sprintf("%s/%d", p.topic, p.id) }

// limits are the rules of the cut.
type limits struct {
	records    int64
	bytes      int64
	recordTime int64 // milliseconds
	idle       time.Duration
}

// cutBefore tells whether the range ends before a record with the given timestamp, in milliseconds.
func (p *partition) cutBefore(timestamp int64, l limits) bool {
	if p.spool.Records == 0 {
		return false
	}
	const hour = 3_600_000
	return timestamp-p.firstTime >= l.recordTime || floorDiv(timestamp, hour) > floorDiv(p.firstTime, hour)
}

// cutAfter tells whether the range is full.
func (p *partition) cutAfter(l limits) bool {
	return p.spool.Records >= l.records || p.spool.Bytes >= l.bytes
}

// idle tells whether the range has waited for more records long enough.
func (p *partition) idle(now time.Time, l limits) bool {
	return p.spool.Records > 0 && len(p.pending) == 0 && now.Sub(p.lastAppend) >= l.idle
}

// feed takes pending records into the range, until a cut is due or none is left.
func (p *partition) feed(now time.Time, l limits) error {
	for len(p.pending) > 0 && !p.due {
		r := p.pending[0]
		if r.Offset < p.position { // fetched before the position was moved back and forth
			p.pending = p.pending[1:]
			continue
		}
		if p.adopt != nil && r.Offset >= p.adopt.footer.Next {
			p.due = true
			return nil
		}
		if !r.Attrs.IsControl() {
			rec := record(r)
			if !p.waiting {
				p.waiting, p.oldest = true, rec.Timestamp
			}
			if p.adopt != nil {
				if err := p.adopt.take(&rec, p.spool); err != nil {
					return err
				}
			} else {
				if p.cutBefore(rec.Timestamp, l) {
					p.due = true
					return nil
				}
				if p.spool.Records == 0 {
					p.firstTime = rec.Timestamp
				}
				if err := p.spool.Append(&rec); err != nil {
					return err
				}
			}
			p.lastAppend = now
		}
		p.pending[0] = nil
		p.pending = p.pending[1:]
		p.position = r.Offset + 1
		if p.adopt != nil {
			p.due = p.position >= p.adopt.footer.Next
		} else {
			p.due = p.cutAfter(l)
		}
	}
	if len(p.pending) == 0 {
		p.pending = nil
	}
	return nil
}

// begin starts a new, empty range at first, with nothing of the old one left.
func (p *partition) begin(first int64) error {
	p.object, p.adopt = nil, nil
	if first != p.first { // else the same record waits on
		p.waiting = false
	}
	p.first, p.due, p.firstTime = first, false, 0
	return p.spool.Reset()
}

// failed puts the next attempt off, longer every time.
func (p *partition) failed(now time.Time, longest time.Duration, err error) {
	p.pause = min(max(2*p.pause, 200*time.Millisecond), longest)
	p.retryAt = now.Add(p.pause)
	text := err.Error()
	p.problem.Store(&text)
}

func (p *partition) succeeded() {
	p.pause, p.retryAt = 0, time.Time{}
	p.problem.Store(nil)
}

// stop lets the partition stand still until the next assignment.
func (p *partition) stop(hint string) {
	p.stopped, p.pending = hint, nil
	p.problem.Store(&hint)
}

func record(r *kgo.Record) archive.Record {
	rec := archive.Record{Offset: r.Offset, Timestamp: r.Timestamp.UnixMilli(), Key: r.Key, Value: r.Value}
	for _, h := range r.Headers {
		rec.Headers = append(rec.Headers, archive.Header{Key: h.Key, Value: h.Value})
	}
	return rec
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}
