package graph

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"runtime"
)

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
	i, known := g.search(key)
	if known {
		fcid = FCID(g.fcids[16*i : 16*i+16])
	}
	runtime.KeepAlive(g) // or its file might be unmapped while it is read
	return fcid, known, known && fcid == shared
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
