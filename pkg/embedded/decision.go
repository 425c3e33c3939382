package embedded

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// decision says that a transaction is to be committed. It is written before the broker writes the first marker, so
// that a kill between the markers, or between them and the offsets, cannot leave half a transaction.
//
// One is enough: the broker ends one transaction at a time, so the next decision is written after the last one has been
// carried out.
type decision struct {
	PID   int64 `json:"pid"`
	Epoch int16 `json:"epoch"`
	// PIDsLog is the size of pids.log at the decision: any later entry of this producer says that it was carried out.
	// A shorter log was rewritten since, which also happens only afterwards.
	PIDsLog int64         `json:"pids_log"`
	Offsets []commitEntry `json:"offsets,omitempty"`
}

// decisionFile keeps the last decision, as crc32c 4 | length 4 | JSON, little-endian, written in place.
// A torn one fails its checksum; then nothing of that transaction had been committed.
type decisionFile struct {
	file    *os.File
	pidsLog string
	staged  map[int64]*stagedOffsets // by producer id; used on the broker's one goroutine only
}

// stagedOffsets are what the current transaction of a producer wants to commit for its groups.
type stagedOffsets struct {
	epoch   int16
	offsets []commitEntry
}

func openDecisionFile(path, logDir string) (*decisionFile, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o640)
	if err != nil {
		return nil, err
	}
	return &decisionFile{
		file:    f,
		pidsLog: filepath.Join(logDir, "pids.log"),
		staged:  make(map[int64]*stagedOffsets),
	}, nil
}

func (d *decisionFile) close() error { return d.file.Close() }

// forget empties the file once the broker has been closed, and so has carried out every decision.
func (d *decisionFile) forget() error { return d.file.Truncate(0) }

// observe sees the requests that make up a transaction before the broker carries them out.
func (d *decisionFile) observe(c *kfake.Cluster) {
	c.ControlKey(int16(kmsg.TxnOffsetCommit), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		d.stage(c, kreq.(*kmsg.TxnOffsetCommitRequest))
		return nil, nil, false
	})
	c.ControlKey(int16(kmsg.EndTxn), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		req := kreq.(*kmsg.EndTxnRequest)
		if err := d.decide(req); err != nil {
			c.KeepControl()
			resp := req.ResponseKind().(*kmsg.EndTxnResponse)
			resp.ErrorCode = kerr.CoordinatorNotAvailable.Code // the client tries again
			return resp, nil, true
		}
		return nil, nil, false
	})
}

func (d *decisionFile) stage(c *kfake.Cluster, req *kmsg.TxnOffsetCommitRequest) {
	s := d.staged[req.ProducerID]
	switch {
	case s == nil || s.epoch < req.ProducerEpoch:
		s = &stagedOffsets{epoch: req.ProducerEpoch}
		d.staged[req.ProducerID] = s
	case s.epoch > req.ProducerEpoch:
		return // a zombie; the broker refuses it
	}
	for _, t := range req.Topics {
		topic := t.Topic
		if topic == "" { // version 6 on names topics by their ids
			info := c.TopicIDInfo(t.TopicID)
			if info == nil {
				continue // the broker refuses it
			}
			topic = info.Topic
		}
		for _, p := range t.Partitions {
			e := commitEntry{Type: "commit", Group: req.Group, Topic: topic, Part: p.Partition,
				Offset: p.Offset, Epoch: p.LeaderEpoch, Metadata: p.Metadata}
			s.offsets = append(s.offsets, e)
		}
	}
}

func (d *decisionFile) decide(req *kmsg.EndTxnRequest) error {
	s := d.staged[req.ProducerID]
	if s != nil && s.epoch != req.ProducerEpoch {
		s = nil
	}
	if req.Commit {
		dec := decision{PID: req.ProducerID, Epoch: req.ProducerEpoch}
		if s != nil {
			dec.Offsets = s.offsets
		}
		info, err := os.Stat(d.pidsLog)
		if err != nil {
			return fmt.Errorf("finding the size of the producer log: %w", err)
		}
		dec.PIDsLog = info.Size()
		if err := d.write(dec); err != nil {
			return fmt.Errorf("writing the decision: %w", err)
		}
	}
	if s != nil {
		delete(d.staged, req.ProducerID)
	}
	return nil
}

func (d *decisionFile) write(dec decision) error {
	data, err := json.Marshal(dec)
	if err != nil {
		return err
	}
	buf := binary.LittleEndian.AppendUint32(nil, crc32.Checksum(data, castagnoli))
	buf = binary.LittleEndian.AppendUint32(buf, uint32(len(data)))
	_, err = d.file.WriteAt(append(buf, data...), 0)
	return err
}

// readDecision returns nil if there is no decision, or a torn one.
func readDecision(path string) (*decision, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(f)
	if err != nil {
		return nil, err
	}
	if len(raw) < 8 {
		return nil, nil
	}
	sum, n, data := binary.LittleEndian.Uint32(raw), binary.LittleEndian.Uint32(raw[4:]), raw[8:]
	if int64(n) > int64(len(data)) || crc32.Checksum(data[:n], castagnoli) != sum {
		return nil, nil
	}
	var dec decision
	if err := json.Unmarshal(data[:n], &dec); err != nil {
		return nil, fmt.Errorf("reading the last transaction decision: %w", err)
	}
	return &dec, nil
}
