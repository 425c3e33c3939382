package archiver

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"databus/pkg/archive"
)

// spool holds the records of a range that is not cut yet, in a local file. It is never read after a restart, so it is
// not synced; checksums guard what a bad disk would otherwise bring into the archive.
type spool struct {
	file    *os.File
	out     *bufio.Writer
	frame   []byte
	ids     map[int]bool // schema ids of the values
	lastID  int
	Records int64
	// Bytes counts keys, headers and values.
	Bytes int64
}

// errSpool: the spool is unusable; its records must be read from the topic again.
var errSpool = errors.New("the spool is damaged")

const (
	// spoolBuffer is small because there is one for every open partition.
	spoolBuffer = 32 << 10
	maxFrame    = 1 << 30
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func newSpool(path string) (*spool, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening spool: %w", err)
	}
	return &spool{file: file, ids: map[int]bool{}, out: bufio.NewWriterSize(file, spoolBuffer)}, nil
}

// Append adds a record.
func (s *spool) Append(r *archive.Record) error {
	b := append(s.frame[:0], make([]byte, 8)...)
	b = archive.AppendFrame(b, r)
	for _, h := range r.Headers {
		s.Bytes += int64(len(h.Key) + len(h.Value))
	}
	binary.LittleEndian.PutUint32(b, uint32(len(b)-8))
	binary.LittleEndian.PutUint32(b[4:], crc32.Checksum(b[8:], castagnoli))
	s.frame = b
	if _, err := s.out.Write(b); err != nil {
		return fmt.Errorf("writing spool: %w: %w", errSpool, err)
	}
	if id, ok := schemaID(r.Value); ok && (id != s.lastID || len(s.ids) == 0) {
		s.ids[id], s.lastID = true, id
	}
	s.Records++
	s.Bytes += int64(len(r.Key) + len(r.Value))
	return nil
}

// Each calls fn for every record in order. The record's memory is used again for the next one.
func (s *spool) Each(fn func(*archive.Record) error) error {
	if err := s.out.Flush(); err != nil {
		return fmt.Errorf("writing spool: %w: %w", errSpool, err)
	}
	size, err := s.file.Seek(0, io.SeekCurrent)
	if err != nil {
		return fmt.Errorf("reading spool: %w: %w", errSpool, err)
	}
	in := bufio.NewReaderSize(io.NewSectionReader(s.file, 0, size), 256<<10)
	head, frame := make([]byte, 8), []byte(nil)
	var rec archive.Record
	for n := int64(0); ; n++ {
		if _, err := io.ReadFull(in, head); err != nil {
			if errors.Is(err, io.EOF) && n == s.Records {
				return nil
			}
			return fmt.Errorf("reading spool after %d of %d records: %w: %w", n, s.Records, errSpool, err)
		}
		length := binary.LittleEndian.Uint32(head)
		if length > maxFrame {
			return fmt.Errorf("reading spool: record %d: %w", n, errSpool)
		}
		if uint32(cap(frame)) < length {
			frame = make([]byte, length)
		}
		frame = frame[:length]
		if _, err := io.ReadFull(in, frame); err != nil {
			return fmt.Errorf("reading spool: %w: %w", errSpool, err)
		}
		if crc32.Checksum(frame, castagnoli) != binary.LittleEndian.Uint32(head[4:]) {
			return fmt.Errorf("reading spool: record %d: %w", n, errSpool)
		}
		archive.ReadFrame(frame, &rec) // its checksum was right: only Append can have written it
		if err := fn(&rec); err != nil {
			return err
		}
	}
}

// Reset empties the spool.
func (s *spool) Reset() error {
	s.out.Reset(s.file)
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
