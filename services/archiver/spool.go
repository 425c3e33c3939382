package archiver

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"slices"

	"databus/pkg/archive"
)

// spool holds the records of a range that is not cut yet, in a local file. It is never read after a restart, so it is
// not synced; checksums guard what a bad disk would otherwise bring into the archive.
//
// The file is a row of blocks: length and CRC-32C of what follows, 4 bytes each, then records, one behind the other.
type spool struct {
	file   *os.File
	block  []byte       // the one that is not written yet; empty, or with room for its length and checksum
	ids    map[int]bool // schema ids of the values
	lastID int

	Records int64
	// Bytes counts keys, headers and values.
	Bytes int64
}

// errSpool: the spool is unusable; its records must be read from the topic again.
var errSpool = errors.New("the spool is damaged")

const (
	// blockBytes ends a block. It is small because there is one for every open partition.
	blockBytes = 32 << 10
	blockHead  = 8
	maxBlock   = 1 << 30
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func newSpool(path string) (*spool, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening spool: %w", err)
	}
	return &spool{file: file, ids: map[int]bool{}}, nil
}

// Append adds a record.
func (s *spool) Append(r *archive.Record) error {
	if len(s.block) == 0 {
		s.block = append(s.block, make([]byte, blockHead)...)
	}
	s.block = archive.AppendFrame(s.block, r)
	for _, h := range r.Headers {
		s.Bytes += int64(len(h.Key) + len(h.Value))
	}
	if id, ok := schemaID(r.Value); ok && (id != s.lastID || len(s.ids) == 0) {
		s.ids[id], s.lastID = true, id
	}
	s.Records++
	s.Bytes += int64(len(r.Key) + len(r.Value))
	if len(s.block) >= blockBytes {
		return s.flush()
	}
	return nil
}

// flush writes the open block.
func (s *spool) flush() error {
	if len(s.block) == 0 {
		return nil
	}
	body := s.block[blockHead:]
	binary.LittleEndian.PutUint32(s.block, uint32(len(body)))
	binary.LittleEndian.PutUint32(s.block[4:], crc32.Checksum(body, castagnoli))
	if _, err := s.file.Write(s.block); err != nil {
		return fmt.Errorf("writing spool: %w: %w", errSpool, err)
	}
	s.emptyBlock()
	return nil
}

func (s *spool) emptyBlock() {
	if s.block = s.block[:0]; cap(s.block) > 4*blockBytes { // one huge record must not stay
		s.block = nil
	}
}

// Each calls fn for every record in order. The record's memory is used again for the next one.
func (s *spool) Each(fn func(*archive.Record) error) error {
	if err := s.flush(); err != nil {
		return err
	}
	size, err := s.file.Seek(0, io.SeekCurrent)
	if err != nil {
		return fmt.Errorf("reading spool: %w: %w", errSpool, err)
	}
	in := io.NewSectionReader(s.file, 0, size)
	head, block := make([]byte, blockHead), []byte(nil)
	var rec archive.Record
	n := int64(0)
	for {
		if _, err := io.ReadFull(in, head); err != nil {
			if errors.Is(err, io.EOF) && n == s.Records {
				return nil
			}
			return fmt.Errorf("reading spool after %d of %d records: %w: %w", n, s.Records, errSpool, err)
		}
		length := binary.LittleEndian.Uint32(head)
		if length > maxBlock {
			return fmt.Errorf("reading spool after %d of %d records: %w", n, s.Records, errSpool)
		}
		block = slices.Grow(block[:0], int(length))[:length]
		if _, err := io.ReadFull(in, block); err != nil {
			return fmt.Errorf("reading spool after %d of %d records: %w: %w", n, s.Records, errSpool, err)
		}
		if crc32.Checksum(block, castagnoli) != binary.LittleEndian.Uint32(head[4:]) {
			return fmt.Errorf("reading spool after %d of %d records: %w", n, s.Records, errSpool)
		}
		for rest := block; len(rest) > 0; n++ {
			rest = archive.ReadFrame(rest, &rec) // the checksum was right: only Append can have written it
			if err := fn(&rec); err != nil {
				return err
			}
		}
	}
}

// Reset empties the spool.
func (s *spool) Reset() error {
	s.emptyBlock()
	s.Records, s.Bytes = 0, 0
	clear(s.ids)
	if err := s.file.Truncate(0); err != nil {
		return fmt.Errorf("emptying spool: %w", err)
	}
	if _, err := s.file.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("emptying spool: %w", err)
	}
	return nil
}

// Close removes the spool.
func (s *spool) Close() {
	s.file.Close()
	os.Remove(s.file.Name()) // if it stays, the next start removes it
}
