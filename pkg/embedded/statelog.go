package embedded

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// The broker's state logs (pids.log, groups.log) are entries of
//
//	length 4 | crc32c 4 | version 2 | JSON
//
// little-endian; length counts version and JSON, and so does the checksum. See entryHeaderSize in kfake's persist.go.
const stateHeader = 10

// pidEntry is one line of pids.log.
type pidEntry struct {
	Type    string `json:"type"` // init, endtx or timeout
	PID     int64  `json:"pid"`
	Epoch   int16  `json:"epoch"`
	TxID    string `json:"txid,omitempty"`
	Timeout int32  `json:"timeout,omitempty"` // milliseconds
	Commit  *bool  `json:"commit,omitempty"`  // how the last transaction ended
}

// commitEntry is a committed offset in groups.log.
type commitEntry struct {
	Type       string  `json:"type"` // commit
	Group      string  `json:"g"`
	Topic      string  `json:"t,omitempty"`
	Part       int32   `json:"p,omitempty"`
	Offset     int64   `json:"o,omitempty"`
	Epoch      int32   `json:"e,omitempty"`
	Metadata   *string `json:"m,omitempty"`
	LastCommit *int64  `json:"lc,omitempty"` // Unix milliseconds
}

// readStateLog calls fn for every whole entry with its position, and cuts a torn tail off the file: the broker only
// skips a tail as it reads and appends behind it, so that the next start would miss all that came after.
// It returns how many bytes it cut.
func readStateLog(path string, fn func(pos int64, data []byte) error) (int64, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	pos := 0
	for pos+stateHeader <= len(raw) {
		length := int(binary.LittleEndian.Uint32(raw[pos:]))
		if length < 2 || length > len(raw)-pos-8 {
			break
		}
		body := raw[pos+8 : pos+8+length]
		if crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(raw[pos+4:]) {
			break
		}
		if fn != nil {
			if err := fn(int64(pos), body[2:]); err != nil {
				return 0, fmt.Errorf("reading %s at byte %d: %w", path, pos, err)
			}
		}
		pos += 8 + length
	}
	torn := int64(len(raw) - pos)
	if torn > 0 {
		err = os.Truncate(path, int64(pos))
	}
	return torn, err
}

// appendStateLog adds entries to the end of the file and makes them durable.
func appendStateLog[E any](path string, entries []E) error {
	if len(entries) == 0 {
		return nil
	}
	var buf []byte
	for _, e := range entries {
		data, err := json.Marshal(e)
		if err != nil {
			return err
		}
		start := len(buf)
		buf = append(buf, make([]byte, stateHeader)...)
		buf = append(buf, data...)
		entry := buf[start:]
		binary.LittleEndian.PutUint32(entry[0:], uint32(2+len(data)))
		binary.LittleEndian.PutUint16(entry[8:], 1)
		binary.LittleEndian.PutUint32(entry[4:], crc32.Checksum(entry[8:], castagnoli))
	}
	return appendFile(path, buf)
}

func appendFile(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}
