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
	magic      = "DBGRAPH\x01"
	headerSize = 64
	footerSize = sha256.Size
	entrySize  = 32
	// MaxEntries keeps a file's size within what one object may have.
	MaxEntries = 150_000_000
)

// ErrCorrupt: the bytes are not a whole graph file.
var ErrCorrupt = errors.New("graph file is corrupt")

// Graph is an immutable graph version.
type Graph struct {
	keys, fcids []byte // 16 bytes an entry; parts of the file
	stats       Stats
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
		return nil, fmt.Errorf("opening graph: %w: it does not begin with DBGRAPH and version 1", ErrCorrupt)
	}
	count := binary.LittleEndian.Uint64(data[8:])
	persons, neutral := binary.LittleEndian.Uint64(data[16:]), binary.LittleEndian.Uint64(data[24:])
	if count > MaxEntries || uint64(len(data)) != headerSize+count*entrySize+footerSize {
		return nil, fmt.Errorf("opening graph: %w: %d bytes for %d identifiers", ErrCorrupt, len(data), count)
	}
	body := data[:len(data)-footerSize]
	if sum := sha256.Sum256(body); !bytes.Equal(sum[:], data[len(body):]) {
		return nil, fmt.Errorf("opening graph: %w: the checksum differs", ErrCorrupt)
	}
	if neutral > count || persons > count-neutral {
		return nil, fmt.Errorf("opening graph: %w: more persons than identifiers", ErrCorrupt)
	}
	g := &Graph{keys: body[headerSize : headerSize+16*count], fcids: body[headerSize+16*count:]}
	g.stats = Stats{Identifiers: int64(count), Persons: int64(persons), Shared: int64(neutral)}
	for i := 16; i < len(g.keys); i += 16 {
		if bytes.Compare(g.keys[i-16:i], g.keys[i:i+16]) >= 0 {
			return nil, fmt.Errorf("opening graph: %w: identifier %d is not above the one before", ErrCorrupt, i/16)
		}
	}
	return g, nil
}

// Stats returns the graph's counts.
func (g *Graph) Stats() Stats { return g.stats }

// Genesis is the graph that knows nothing: each record is resolved by its own anchor.
func Genesis() *Graph { return &Graph{} }

// keyOf is the key of an identifier in a file: the first half of SHA-256("databus/graph/1", kind's symbol, hash). Keys are
// evenly spread whatever the hashes are, on which the search relies.
func keyOf(id Identifier) [16]byte {
	var buf [64]byte
	b := append(buf[:0], "databus/graph/1"...)
	b = append(b, id.Kind.String()...)
	b = append(b, id.Hash[:]...)
	sum := sha256.Sum256(b)
	return [16]byte(sum[:16])
}

// Lookup returns an identifier's person. Neutralised identifiers are known, but belong to nobody.
func (g *Graph) Lookup(id Identifier) (fcid FCID, known, isShared bool) {
	key := keyOf(id)
	i, ok := g.search(key)
	if !ok {
		return FCID{}, false, false
	}
	fcid = FCID(g.fcids[16*i : 16*i+16])
	return fcid, true, fcid == shared
}

// search is interpolation, which comes close in a few steps because keys are evenly spread, with bisection to bound it.
func (g *Graph) search(key [16]byte) (int, bool) {
	want := binary.BigEndian.Uint64(key[:8])
	lo, hi := 0, len(g.keys)/16 // the key is in [lo, hi)
	for step := 0; lo < hi; step++ {
		mid := int(uint(lo+hi) >> 1)
		if step < 8 && hi-lo > 16 {
			first := binary.BigEndian.Uint64(g.keys[16*lo:])
			last := binary.BigEndian.Uint64(g.keys[16*(hi-1):])
			if want < first || want > last {
				return 0, false
			}
			if last > first {
				mid = min(lo+int(float64(want-first)/float64(last-first)*float64(hi-1-lo)), hi-1)
			}
		}
		switch c := bytes.Compare(g.keys[16*mid:16*mid+16], key[:]); {
		case c == 0:
			return mid, true
		case c < 0:
			lo = mid + 1
		default:
			hi = mid
		}
	}
	return 0, false
}

// Resolve returns the person of a record with these identifiers, which are sorted as a Normaliser returns them. The
// least known identifier decides; where none is known, the record's own anchor: its least identifier that is not
// shared. It is false when there is none, which cannot happen with a RecordIdentifier among them.
func (g *Graph) Resolve(ids []Identifier) (FCID, bool) {
	own := -1
	for i, id := range ids {
		fcid, known, isShared := g.Lookup(id)
		switch {
		case isShared:
		case known:
			return fcid, true
		case own < 0:
			own = i
		}
	}
	if own < 0 {
		return FCID{}, false
	}
	return FCIDOf(ids[own]), true
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
