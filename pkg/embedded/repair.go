package embedded

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"time"
)

// repaired counts what a start put right.
type repaired struct {
	committed, aborted int // transactions ended, each counted once a partition
	tornBytes          int64
	indexes            int
}

func (r repaired) any() bool { return r != repaired{} }

// producer is the last that pids.log says of a producer id.
type producer struct {
	last       pidEntry
	timeout    int32
	txID       string
	afterwards bool // it has an entry after the last decision
}

// repair makes a stopped broker's directory one that a broker can go on from. It ends every open transaction in the
// log itself: the broker, left alone, only remembers that it gave one up, so that it comes back to life with the next
// commit of the same producer id, or hides that one. It may be killed at any point and run again.
//
// Order matters. A producer whose transaction is given up gets its new epoch first, so that a client that outlived the
// broker cannot finish the rest of it as if it were all. One whose commit was decided gets it last, because that entry
// says that the decision has been carried out.
func repair(logDir, decisionPath string) (repaired, error) {
	var done repaired
	// What the broker wrote about its connections, group members and open transactions when it was closed: clients
	// join again, and the transactions are ended here.
	if err := os.Remove(filepath.Join(logDir, "session_state.json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return done, err
	}
	parts, err := scanPartitions(logDir, &done)
	if err != nil {
		return done, err
	}
	dec, err := readDecision(decisionPath)
	if err != nil {
		return done, err
	}
	pidsLog := filepath.Join(logDir, "pids.log")
	producers, torn, err := readProducers(pidsLog, dec)
	if err != nil {
		return done, err
	}
	done.tornBytes += torn
	if dec != nil {
		p := producers[dec.PID]
		if p == nil || p.afterwards || p.last.Epoch != dec.Epoch {
			dec = nil // carried out, or refused
		}
	}
	torn, err = readStateLog(filepath.Join(logDir, "groups.log"), nil)
	if err != nil {
		return done, err
	}
	done.tornBytes += torn

	var fenced []pidEntry
	seen := make(map[int64]bool)
	for _, p := range parts {
		for _, txn := range p.open {
			prod := producers[txn.pid]
			if seen[txn.pid] || prod == nil || prod.last.Epoch > txn.epoch || dec != nil && txn.pid == dec.PID {
				continue
			}
			seen[txn.pid] = true
			fenced = append(fenced, prod.next(txn.pid, max(prod.last.Epoch, txn.epoch), false))
		}
	}
	if err := appendStateLog(pidsLog, fenced); err != nil {
		return done, fmt.Errorf("fencing the producers of open transactions: %w", err)
	}
	for _, p := range parts {
		for _, txn := range p.open {
			commit := dec != nil && txn.pid == dec.PID && txn.epoch == dec.Epoch
			if err := p.end(txn, commit); err != nil {
				return done, fmt.Errorf("ending a transaction in %s-%d: %w", p.topic, p.part, err)
			}
			if commit {
				done.committed++
			} else {
				done.aborted++
			}
		}
	}
	if dec != nil {
		now := time.Now().UnixMilli()
		for i := range dec.Offsets {
			dec.Offsets[i].LastCommit = &now
		}
		if err := appendStateLog(filepath.Join(logDir, "groups.log"), dec.Offsets); err != nil {
			return done, fmt.Errorf("committing a decided transaction's offsets: %w", err)
		}
		ended := producers[dec.PID].next(dec.PID, dec.Epoch, true)
		if err := appendStateLog(pidsLog, []pidEntry{ended}); err != nil {
			return done, fmt.Errorf("closing a decided transaction: %w", err)
		}
	}
	if err := writeSequences(logDir, parts); err != nil {
		return done, fmt.Errorf("writing the sequence windows: %w", err)
	}
	// The broker rewrites pids.log when it closes, after which positions in it mean nothing.
	if err := os.Remove(decisionPath); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return done, err
	}
	return done, nil
}

// next is the entry that ends the producer's transaction: with the epoch after its own, as a broker does.
func (p *producer) next(pid int64, epoch int16, commit bool) pidEntry {
	if epoch < math.MaxInt16-1 { // the broker itself starts another producer id there
		epoch++
	}
	return pidEntry{Type: "init", PID: pid, Epoch: epoch, TxID: p.txID, Timeout: p.timeout, Commit: &commit}
}

func scanPartitions(logDir string, done *repaired) ([]*partLog, error) {
	root := filepath.Join(logDir, "partitions")
	dirs, err := os.ReadDir(root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	parts := make([]*partLog, 0, len(dirs))
	for _, d := range dirs {
		if !d.IsDir() {
			continue
		}
		p, err := scanPartition(filepath.Join(root, d.Name()))
		if err != nil {
			return nil, err
		}
		done.tornBytes += p.tornBytes
		done.indexes += p.indexes
		parts = append(parts, p)
	}
	return parts, nil
}

func readProducers(path string, dec *decision) (map[int64]*producer, int64, error) {
	producers := make(map[int64]*producer)
	var size int64
	torn, err := readStateLog(path, func(pos int64, data []byte) error {
		var e pidEntry
		if err := json.Unmarshal(data, &e); err != nil {
			return err
		}
		size = pos + int64(len(data)) + stateHeader
		p := producers[e.PID]
		if p == nil {
			p = new(producer)
			producers[e.PID] = p
		}
		p.last = e
		if e.Type == "init" {
			p.txID, p.timeout = e.TxID, e.Timeout
		}
		if dec != nil && pos >= dec.PIDsLog {
			p.afterwards = true
		}
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	if dec != nil && size < dec.PIDsLog {
		for _, p := range producers { // rewritten since the decision
			p.afterwards = true
		}
	}
	return producers, torn, nil
}

// sequences is the broker's seq_windows.json: for each producer and partition the last batches, by which it tells a
// batch sent again from a new one. The broker writes it only when it is closed, so after a kill it would be stale: it
// would refuse the next batch of a producer that lives on, or take a batch twice.
type sequences struct {
	Version int              `json:"version"`
	Windows []sequenceWindow `json:"windows"`
}

type sequenceWindow struct {
	PID     int64            `json:"pid"`
	Topic   string           `json:"topic"`
	Part    int32            `json:"partition"`
	Entries [5]sequenceEntry `json:"entries"`
	Count   uint8            `json:"count"`
	At      uint8            `json:"at"`
	Epoch   int16            `json:"epoch"`
	Seen    bool             `json:"seen"`
	NextSeq int32            `json:"next_seq"`
}

type sequenceEntry struct {
	FirstSeq int32 `json:"first_seq"`
	NextSeq  int32 `json:"next_seq"`
	Offset   int64 `json:"offset"`
}

func writeSequences(logDir string, parts []*partLog) error {
	all := sequences{Version: 1}
	for _, p := range parts {
		for pid, recent := range p.recent {
			w := sequenceWindow{PID: pid, Topic: p.topic, Part: p.part, Seen: true, Epoch: recent[len(recent)-1].epoch}
			for _, b := range recent {
				if b.epoch != w.Epoch {
					continue
				}
				w.NextSeq = int32((int64(b.first) + int64(b.count)) % math.MaxInt32) // as the broker wraps it
				w.Entries[w.Count] = sequenceEntry{FirstSeq: b.first, NextSeq: w.NextSeq, Offset: b.offset}
				w.Count++
			}
			w.At = w.Count % 5
			all.Windows = append(all.Windows, w)
		}
	}
	if len(all.Windows) == 0 {
		return nil
	}
	data, err := json.Marshal(all)
	if err != nil {
		return err
	}
	return writeFileAtomic(filepath.Join(logDir, "seq_windows.json"), data)
}
