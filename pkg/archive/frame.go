package archive

import "encoding/binary"

// AppendFrame writes a record to dst in a form of this program's own, for memory and files that do not outlive it.
func AppendFrame(dst []byte, r *Record) []byte {
	dst = binary.AppendVarint(dst, r.Offset)
	dst = binary.AppendVarint(dst, r.Timestamp)
	dst = appendNullable(dst, r.Key)
	dst = binary.AppendUvarint(dst, uint64(len(r.Headers)))
	for _, h := range r.Headers {
		dst = appendNullable(dst, []byte(h.Key))
		dst = appendNullable(dst, h.Value)
	}
	return appendNullable(dst, r.Value)
}

// ReadFrame reads what AppendFrame has written and returns what is behind it: anything else makes it panic. The record shares the
// frame's memory, and its own headers are overwritten.
func ReadFrame(frame []byte, r *Record) (rest []byte) {
	signed := func() int64 {
		n, size := binary.Varint(frame)
		frame = frame[size:]
		return n
	}
	unsigned := func() uint64 {
		n, size := binary.Uvarint(frame)
		frame = frame[size:]
		return n
	}
	nullable := func() []byte {
		n := unsigned()
		if n == 0 {
			return nil
		}
		b := frame[: n-1 : n-1]
		frame = frame[n-1:]
		return b
	}
	r.Offset, r.Timestamp, r.Key = signed(), signed(), nullable()
	r.Headers = r.Headers[:0]
	for range unsigned() {
		r.Headers = append(r.Headers, Header{Key: string(nullable()), Value: nullable()})
	}
	r.Value = nullable()
	return frame
}

// appendNullable writes 0 for nil, else the length plus one and the bytes.
func appendNullable(dst, b []byte) []byte {
	if b == nil {
		return append(dst, 0)
	}
	return append(binary.AppendUvarint(dst, uint64(len(b))+1), b...)
}
