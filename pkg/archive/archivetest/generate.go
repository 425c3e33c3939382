// Package archivetest makes random Avro schemas and values of them: the corpus on which the archive is tested.
//
// Promise: the same source of numbers gives the same schemas and values; every type and logical type of Avro that the archive takes
// occurs, in records, arrays, maps and unions.
package archivetest

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
)

// Generator makes random Avro schemas together with functions that write random values of them, in Avro's binary form
// with one block per array or map.
type Generator struct {
	// Rand decides everything.
	Rand  *rand.Rand
	names int
}

// WriteValue appends a random value of a schema to dst.
type WriteValue func(rng *rand.Rand, dst []byte) []byte

// Schema makes the next schema, as JSON, and what writes values of it.
func (g *Generator) Schema() (string, WriteValue) {
	schema, write := g.record(0)
	text, err := json.Marshal(schema)
	if err != nil {
		panic(err)
	}
	return string(text), write
}

func (g *Generator) record(depth int) (any, WriteValue) {
	g.names++
	name := fmt.Sprintf("R%d", g.names)
	var fields []any
	var writes []WriteValue
	for i := range 1 + g.Rand.IntN(7) {
		schema, write := g.any(depth + 1)
		// Names in falling order show that nothing sorts them.
		fields = append(fields, map[string]any{"name": fmt.Sprintf("f%c%d", 'z'-i, g.Rand.IntN(10)), "type": schema})
		writes = append(writes, write)
	}
	return map[string]any{"type": "record", "name": name, "namespace": "test", "fields": fields},
		func(rng *rand.Rand, dst []byte) []byte {
			for _, write := range writes {
				dst = write(rng, dst)
			}
			return dst
		}
}

func (g *Generator) any(depth int) (any, WriteValue) {
	switch n := g.Rand.IntN(10); {
	case n < 3:
		schema, write := g.present(depth)
		null := int64(g.Rand.IntN(2))
		branches := []any{schema, schema}
		branches[null] = "null"
		return branches, func(rng *rand.Rand, dst []byte) []byte {
			if rng.IntN(3) == 0 {
				return binary.AppendVarint(dst, null)
			}
			return write(rng, binary.AppendVarint(dst, 1-null))
		}
	case n == 3:
		return g.choice(depth)
	default:
		return g.present(depth)
	}
}

// choice is a union of several types, sometimes with null, at any place.
func (g *Generator) choice(depth int) (any, WriteValue) {
	var branches []any
	var writes []WriteValue
	seen := map[string]bool{}
	for range 2 + g.Rand.IntN(4) {
		schema, write := g.present(depth + 1)
		if g.Rand.IntN(4) == 0 {
			schema, write = "null", func(_ *rand.Rand, dst []byte) []byte { return dst }
		}
		kind := fmt.Sprint(schema)
		if m, ok := schema.(map[string]any); ok {
			if kind = fmt.Sprint(m["type"]); m["name"] != nil {
				kind = fmt.Sprint(m["name"])
			}
		}
		if !seen[kind] { // Avro allows each type once
			seen[kind] = true
			branches, writes = append(branches, schema), append(writes, write)
		}
	}
	if len(branches) == 1 {
		if seen["null"] {
			return g.leaf()
		}
		return branches[0], writes[0]
	}
	return branches, func(rng *rand.Rand, dst []byte) []byte {
		i := rng.IntN(len(writes))
		return writes[i](rng, binary.AppendVarint(dst, int64(i)))
	}
}

func (g *Generator) present(depth int) (any, WriteValue) {
	if depth < 5 {
		switch g.Rand.IntN(8) {
		case 0:
			return g.record(depth)
		case 1:
			items, write := g.any(depth + 1)
			return map[string]any{"type": "array", "items": items}, blocks(write)
		case 2:
			values, write := g.any(depth + 1)
			n := 0
			return map[string]any{"type": "map", "values": values}, blocks(func(rng *rand.Rand, dst []byte) []byte {
				n++ // keys are unique
				return write(rng, appendBytes(dst, fmt.Appendf(nil, "%s/%d", String(rng), n)))
			})
		}
	}
	return g.leaf()
}

func (g *Generator) leaf() (any, WriteValue) {
	integer := func(schema any, bits uint) (any, WriteValue) {
		return schema, func(rng *rand.Rand, dst []byte) []byte {
			n := int64(rng.Uint64()) >> rng.UintN(64)
			return binary.AppendVarint(dst, n<<(64-bits)>>(64-bits))
		}
	}
	logical := func(kind, name string) any { return map[string]any{"type": kind, "logicalType": name} }
	bytesOf := func(schema any) (any, WriteValue) {
		return schema, func(rng *rand.Rand, dst []byte) []byte {
			b := make([]byte, rng.IntN(20))
			for i := range b {
				b[i] = byte(rng.Uint32())
			}
			return appendBytes(dst, b)
		}
	}
	stringOf := func(schema any) (any, WriteValue) {
		return schema, func(rng *rand.Rand, dst []byte) []byte { return appendBytes(dst, String(rng)) }
	}
	fixed := func(size int, more map[string]any) (any, WriteValue) {
		g.names++
		schema := map[string]any{"type": "fixed", "name": fmt.Sprintf("F%d", g.names), "size": size}
		for k, v := range more {
			schema[k] = v
		}
		return schema, func(rng *rand.Rand, dst []byte) []byte {
			for range size {
				dst = append(dst, byte(rng.Uint32()))
			}
			return dst
		}
	}
	switch g.Rand.IntN(22) {
	case 0:
		return "boolean", func(rng *rand.Rand, dst []byte) []byte { return append(dst, byte(rng.IntN(2))) }
	case 1:
		return integer("int", 32)
	case 2:
		return integer("long", 64)
	case 3:
		return "float", func(rng *rand.Rand, dst []byte) []byte {
			return binary.LittleEndian.AppendUint32(dst, math.Float32bits(rng.Float32()*1e6-5e5))
		}
	case 4:
		return "double", func(rng *rand.Rand, dst []byte) []byte {
			return binary.LittleEndian.AppendUint64(dst, math.Float64bits(rng.NormFloat64()))
		}
	case 5:
		return bytesOf("bytes")
	case 6:
		return stringOf("string")
	case 7:
		return fixed(1+g.Rand.IntN(20), nil)
	case 8:
		return fixed(16, map[string]any{"logicalType": "uuid"})
	case 9:
		schema, _ := fixed(8, map[string]any{"logicalType": "decimal", "precision": 18, "scale": 4})
		return schema, func(rng *rand.Rand, dst []byte) []byte {
			return binary.BigEndian.AppendUint64(dst, uint64(rng.Int64N(2e17)-1e17))
		}
	case 10:
		return map[string]any{"type": "bytes", "logicalType": "decimal", "precision": 20, "scale": 6},
			func(rng *rand.Rand, dst []byte) []byte {
				b := binary.BigEndian.AppendUint64(nil, rng.Uint64())[rng.IntN(7):]
				b[0] = byte(1 + rng.IntN(127)) // the shortest form
				return appendBytes(dst, b)
			}
	case 11:
		g.names++
		symbols := []string{"RED", "GREEN", "BLUE", "_x9"}[:1+g.Rand.IntN(4)]
		return map[string]any{"type": "enum", "name": fmt.Sprintf("E%d", g.names), "symbols": symbols},
			func(rng *rand.Rand, dst []byte) []byte {
				return binary.AppendVarint(dst, int64(rng.IntN(len(symbols))))
			}
	case 12:
		return logical("int", "date"), func(rng *rand.Rand, dst []byte) []byte { return binary.AppendVarint(dst, rng.Int64N(40000)) }
	case 13:
		return logical("int", "time-millis"), func(rng *rand.Rand, dst []byte) []byte {
			return binary.AppendVarint(dst, rng.Int64N(86_400_000))
		}
	case 14:
		return logical("long", "time-micros"), func(rng *rand.Rand, dst []byte) []byte {
			return binary.AppendVarint(dst, rng.Int64N(86_400_000_000))
		}
	case 15, 16, 17, 18:
		name := []string{"timestamp-millis", "timestamp-micros", "local-timestamp-millis", "local-timestamp-micros"}[g.Rand.IntN(4)]
		return logical("long", name), func(rng *rand.Rand, dst []byte) []byte {
			return binary.AppendVarint(dst, rng.Int64N(4_000_000_000_000))
		}
	case 19:
		return logical("string", "uuid"), func(rng *rand.Rand, dst []byte) []byte {
			return appendBytes(dst, fmt.Appendf(nil, "%08x-0000-4000-8000-%012x", rng.Uint32(), rng.Uint32()))
		}
	case 20:
		return bytesOf(logical("bytes", "no-such-logical-type"))
	default:
		return stringOf("string")
	}
}

func blocks(write WriteValue) WriteValue {
	return func(rng *rand.Rand, dst []byte) []byte {
		if n := rng.IntN(4); n > 0 {
			dst = binary.AppendVarint(dst, int64(n))
			for range n {
				dst = write(rng, dst)
			}
		}
		return append(dst, 0)
	}
}

func appendBytes(dst, b []byte) []byte {
	return append(binary.AppendVarint(dst, int64(len(b))), b...)
}

// String is a short random text.
func String(rng *rand.Rand) []byte {
	words := []string{"", "a", "Grüße", "日本", "the same again", "🚲"}
	return fmt.Appendf(nil, "%s%d", words[rng.IntN(len(words))], rng.IntN(1000))
}
