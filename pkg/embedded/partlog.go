package embedded

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// A partition's directory holds segments BASE.dat, Kafka's record batches one after the other, and beside each BASE.idx
// with one entry a batch:
//
//	version 1 | checksum 1 (low byte of crc32c of the rest) | leader epoch 4 | earlier timestamp 8 | flags 1
//
// little-endian; flag bit 0 marks a batch of a transaction. See encodeIndexEntry in kfake's persist.go.
const (
	indexEntryBytes = 15
	batchHeader     = 61
	maxBatchBytes   = 1 << 30
)

// Offsets in a record batch (Kafka's message format, version 2) and its attributes.
const (
	atLength, atLeaderEpoch, atCRC, atAttributes, atLastDelta   = 8, 12, 17, 21, 23
	atFirstTime, atMaxTime, atPID, atEpoch, atSequence, atCount = 27, 35, 43, 51, 53, 57
	attrCodec, attrAppendTime, attrTransactional, attrControl   = 0x7, 0x8, 0x10, 0x20
)

// openTxn is a transaction that has written to a partition and was not ended there.
type openTxn struct {
	pid   int64
	epoch int16
}

// recentBatch is what is needed to recognise a batch that a producer sends again.
type recentBatch struct {
	epoch        int16
	first, count int32
	offset       int64
}

// partLog is what a scan of one partition found.
type partLog struct {
	dir, topic string
	part       int32
	next       int64 // offset after the last batch
	epoch      int32 // leader epoch of the last batch
	segment    int64 // base of the last segment, -1 if there is none
	open       []openTxn
	recent     map[int64][]recentBatch // by producer id, at most five, oldest first
	tornBytes  int64
	indexes    int // index files written anew
}

// scanPartition reads a partition's log and puts right what a kill may have left: half a batch at the end, and an
// index that lacks the last batch. (The broker would take that batch for one outside any transaction, and shift the
// flags of all batches after it by one.)
func scanPartition(dir string) (*partLog, error) {
	name, err := url.PathUnescape(filepath.Base(dir))
	if err != nil {
		return nil, err
	}
	dash := strings.LastIndexByte(name, '-')
	if dash < 0 {
		return nil, fmt.Errorf("%s is no partition's directory", dir)
	}
	part, err := strconv.ParseInt(name[dash+1:], 10, 32)
	if err != nil {
		return nil, fmt.Errorf("%s is no partition's directory", dir)
	}
	p := &partLog{dir: dir, topic: name[:dash], part: int32(part), segment: -1, recent: make(map[int64][]recentBatch)}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var bases []int64
	for _, e := range entries {
		if base, ok := strings.CutSuffix(e.Name(), ".dat"); ok {
			n, err := strconv.ParseInt(base, 10, 64)
			if err != nil {
				return nil, fmt.Errorf("%s is no segment", e.Name())
			}
			bases = append(bases, n)
		}
	}
	slices.Sort(bases)
	for i, base := range bases {
		if err := p.scanSegment(base, i == len(bases)-1); err != nil {
			return nil, fmt.Errorf("scanning segment %d of %s: %w", base, name, err)
		}
	}
	return p, nil
}

func (p *partLog) file(base int64, suffix string) string {
	return filepath.Join(p.dir, strconv.FormatInt(base, 10)+suffix)
}

func (p *partLog) scanSegment(base int64, last bool) error {
	f, err := os.Open(p.file(base, ".dat"))
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	size, pos := info.Size(), int64(0)
	r := bufio.NewReaderSize(f, 1<<18)
	var batch, index []byte
	for pos < size {
		head, err := r.Peek(12)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		n := int64(math.MaxInt64)
		if len(head) == 12 {
			n = 12 + int64(binary.BigEndian.Uint32(head[atLength:]))
		}
		whole := n >= batchHeader && n <= maxBatchBytes && n <= size-pos
		if whole {
			batch = slices.Grow(batch[:0], int(n))[:n]
			if _, err := io.ReadFull(r, batch); err != nil {
				return err
			}
			whole = crc32.Checksum(batch[atAttributes:], castagnoli) == binary.BigEndian.Uint32(batch[atCRC:])
			if !whole && pos+n < size {
				return fmt.Errorf("batch at byte %d does not match its checksum, and more follows: the disk lost data; remove the directory to start anew", pos)
			}
		}
		if !whole {
			if !last {
				return fmt.Errorf("%d bytes at its end are no batch, and another segment follows: the disk lost data; remove the directory to start anew", size-pos)
			}
			p.tornBytes += size - pos
			if err := os.Truncate(p.file(base, ".dat"), pos); err != nil {
				return err
			}
			break
		}
		p.see(batch)
		index = append(index, indexEntry(batch)...)
		pos += n
	}
	if pos > 0 || p.segment < 0 {
		p.segment = base
	}
	return p.fixIndex(base, index)
}

// see takes one batch into account.
func (p *partLog) see(batch []byte) {
	first := int64(binary.BigEndian.Uint64(batch))
	p.next = first + int64(int32(binary.BigEndian.Uint32(batch[atLastDelta:]))) + 1
	p.epoch = int32(binary.BigEndian.Uint32(batch[atLeaderEpoch:]))
	attrs := binary.BigEndian.Uint16(batch[atAttributes:])
	pid := int64(binary.BigEndian.Uint64(batch[atPID:]))
	epoch := int16(binary.BigEndian.Uint16(batch[atEpoch:]))
	at := slices.IndexFunc(p.open, func(o openTxn) bool { return o.pid == pid })
	switch {
	case pid < 0:
		return
	case attrs&attrControl != 0:
		if at >= 0 {
			p.open = slices.Delete(p.open, at, at+1)
		}
		return
	case attrs&attrTransactional != 0 && at < 0:
		p.open = append(p.open, openTxn{pid, epoch})
	case attrs&attrTransactional != 0:
		p.open[at].epoch = max(p.open[at].epoch, epoch)
	}
	recent := p.recent[pid]
	if len(recent) == 5 {
		recent = slices.Delete(recent, 0, 1)
	}
	p.recent[pid] = append(recent, recentBatch{
		epoch:  epoch,
		first:  int32(binary.BigEndian.Uint32(batch[atSequence:])),
		count:  int32(binary.BigEndian.Uint32(batch[atCount:])),
		offset: first,
	})
}

// fixIndex writes the index anew if what it says differs from what the batches say.
func (p *partLog) fixIndex(base int64, want []byte) error {
	path := p.file(base, ".idx")
	have, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	same := len(have) == len(want)
	for i := 0; same && i < len(want); i += indexEntryBytes {
		// The earlier timestamp (bytes 6 to 13) and so the checksum may differ: the broker works it out itself.
		same = have[i] == want[i] && bytes.Equal(have[i+2:i+6], want[i+2:i+6]) && have[i+14] == want[i+14]
		same = same && have[i+1] == byte(crc32.Checksum(have[i+2:i+indexEntryBytes], castagnoli))
	}
	if same {
		return nil
	}
	p.indexes++
	return writeFileAtomic(path, want)
}

func indexEntry(batch []byte) []byte {
	e := make([]byte, indexEntryBytes)
	e[0] = 1
	binary.LittleEndian.PutUint32(e[2:], binary.BigEndian.Uint32(batch[atLeaderEpoch:]))
	binary.LittleEndian.PutUint64(e[6:], binary.BigEndian.Uint64(batch[atMaxTime:]))
	if attrs := binary.BigEndian.Uint16(batch[atAttributes:]); attrs&attrTransactional != 0 && attrs&attrControl == 0 {
		e[14] = 1
	}
	e[1] = byte(crc32.Checksum(e[2:], castagnoli))
	return e
}

// end writes the marker that ends a transaction in this partition.
func (p *partLog) end(txn openTxn, commit bool) error {
	batch := endMarker(p.next, p.epoch, txn, commit, time.Now())
	if err := appendFile(p.file(p.segment, ".dat"), batch); err != nil {
		return err
	}
	if err := appendFile(p.file(p.segment, ".idx"), indexEntry(batch)); err != nil {
		return err
	}
	p.next++
	return nil
}

// endMarker encodes a control batch, as a transaction coordinator writes it.
func endMarker(offset int64, leaderEpoch int32, txn openTxn, commit bool, at time.Time) []byte {
	key := kmsg.ControlRecordKey{Type: kmsg.ControlRecordKeyTypeAbort}
	if commit {
		key.Type = kmsg.ControlRecordKeyTypeCommit
	}
	marker := kmsg.EndTxnMarker{}
	rec := kmsg.Record{Key: key.AppendTo(nil), Value: marker.AppendTo(nil)}
	rec.Length = int32(len(rec.AppendTo(nil)) - 1) // the length itself takes one byte
	b := kmsg.RecordBatch{
		FirstOffset:          offset,
		PartitionLeaderEpoch: leaderEpoch,
		Magic:                2,
		Attributes:           attrTransactional | attrControl,
		FirstTimestamp:       at.UnixMilli(),
		MaxTimestamp:         at.UnixMilli(),
		ProducerID:           txn.pid,
		ProducerEpoch:        txn.epoch,
		FirstSequence:        -1,
		NumRecords:           1,
		Records:              rec.AppendTo(nil),
	}
	enc := b.AppendTo(nil)
	binary.BigEndian.PutUint32(enc[atLength:], uint32(len(enc)-12))
	binary.BigEndian.PutUint32(enc[atCRC:], crc32.Checksum(enc[atAttributes:], castagnoli))
	return enc
}
