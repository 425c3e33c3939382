package graph

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// The file is described in FORMAT.md.
const (
	magic         = "DBGRAPH"
	formatVersion = 1
	headerSize    = 64
	footerSize    = sha256.Size
	entrySize     = 32
	// MaxEntries keeps a file's size within what one object may have.
	MaxEntries = 150_000_000
)

var (
	// ErrCorrupt: the bytes are not a whole graph file.
	ErrCorrupt = errors.New("graph file is corrupt")
	// ErrFormat: the file has a format that this program does not know.
	ErrFormat = errors.New("graph file is of another format version")
)

// Graph is an immutable graph version. Its methods do not allocate memory.
type Graph struct {
	keys, fcids []byte // 16 bytes an entry; parts of the file
	stats       Stats
	sum         [sha256.Size]byte // of the whole file
}

// Stats are the counts of a graph.
type Stats struct {
	// Identifiers, the shared ones included.
	Identifiers int64
	// Persons are components.
	Persons int64
	// Shared identifiers are neutralised: they connect too many persons.
	Shared int64
}

// Open checks a graph file and returns the graph in it, which keeps data and must not see it change.
func Open(data []byte) (*Graph, error) {
	if len(data) < headerSize+footerSize {
		return nil, fmt.Errorf("opening graph: %w: %d bytes", ErrCorrupt, len(data))
	}
	if string(data[:len(magic)]) != magic {
		return nil, fmt.Errorf("opening graph: %w: it does not begin with %s", ErrCorrupt, magic)
	}
	if v := data[len(magic)]; v != formatVersion {
		return nil, fmt.Errorf("opening graph: %w: it has version %d, this program reads version %d; publish the graph in that version or run a newer program", ErrFormat, v, formatVersion)
	}
	count := binary.LittleEndian.Uint64(data[8:])
	persons, neutral := binary.LittleEndian.Uint64(data[16:]), binary.LittleEndian.Uint64(data[24:])
	if count > MaxEntries || uint64(len(data)) != headerSize+count*entrySize+footerSize {
		return nil, fmt.Errorf("opening graph: %w: %d bytes for %d identifiers", ErrCorrupt, len(data), count)
	}
	body, footer := data[:len(data)-footerSize], data[len(data)-footerSize:]
	sum := sha256.New()
	sum.Write(body) // never fails
	if !bytes.Equal(sum.Sum(nil), footer) {
		return nil, fmt.Errorf("opening graph: %w: the checksum differs", ErrCorrupt)
	}
	sum.Write(footer)
	if neutral > count || persons > count-neutral {
		return nil, fmt.Errorf("opening graph: %w: more persons than identifiers", ErrCorrupt)
	}
	g := &Graph{keys: body[headerSize : headerSize+16*count], fcids: body[headerSize+16*count:]}
	sum.Sum(g.sum[:0])
	g.stats = Stats{Identifiers: int64(count), Persons: int64(persons), Shared: int64(neutral)}
	for i := 16; i < len(g.keys); i += 16 {
		if bytes.Compare(g.keys[i-16:i], g.keys[i:i+16]) >= 0 {
			return nil, fmt.Errorf("opening graph: %w: identifier %d is not above the one before", ErrCorrupt, i/16)
		}
	}
	return g, nil
}

// item is an entry of a file to be.
type item struct {
	key  [16]byte
	fcid FCID
}

// encode writes a file. The items are sorted here.
func encode(items []item, stats Stats) []byte {
	slices.SortFunc(items, func(a, b item) int { return bytes.Compare(a.key[:], b.key[:]) })
	out := make([]byte, headerSize, headerSize+len(items)*entrySize+footerSize)
	copy(out, magic)
	out[len(magic)] = formatVersion
	binary.LittleEndian.PutUint64(out[8:], uint64(len(items)))
	binary.LittleEndian.PutUint64(out[16:], uint64(stats.Persons))
	binary.LittleEndian.PutUint64(out[24:], uint64(stats.Shared))
	for _, it := range items {
		out = append(out, it.key[:]...)
	}
	for _, it := range items {
		out = append(out, it.fcid[:]...)
	}
	sum := sha256.Sum256(out)
	return append(out, sum[:]...)
}
