package history

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

// restoreState is what a restore remembers between two runs, in a JSON file. Each partition's new log is the rows of its
// objects in order and nothing else, so an end offset says how far it came.
type restoreState struct {
	Topic   string `json:"topic"`
	To      string `json:"to"`
	Cluster string `json:"cluster"`
	// OffsetsBytes is how much of the mapping's file counts; what follows was written by a run that died.
	OffsetsBytes int64                    `json:"offsets_bytes"`
	Partitions   map[int32]*restorePartAt `json:"partitions"`
}

// restorePartAt is where a partition stands: its last restored object ends at Next in the archive and at NewNext in the
// new topic.
type restorePartAt struct {
	Object  string `json:"object,omitempty"`
	Next    int64  `json:"next"`
	NewNext int64  `json:"new_next"`
}

// Moved is a run of offsets that were restored: [From, To) became [NewFrom, NewTo), one to one. It is a line of the mapping.
type Moved struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	From      int64  `json:"from"`
	To        int64  `json:"to"`
	NewTopic  string `json:"new_topic"`
	NewFrom   int64  `json:"new_from"`
	NewTo     int64  `json:"new_to"`
	Object    string `json:"object"`
}

// journal keeps state and mapping; partitions share it.
type journal struct {
	mu      sync.Mutex
	path    string
	state   restoreState
	offsets *os.File
}

// openJournal loads the state, or begins one.
func openJournal(statePath, offsetsPath string, fresh restoreState) (_ *journal, begun bool, err error) {
	j := &journal{path: statePath, state: fresh}
	switch b, err := os.ReadFile(statePath); {
	case err == nil:
		var old restoreState
		if err := json.Unmarshal(b, &old); err != nil {
			return nil, false, fmt.Errorf("reading the state of the restore in %s: %w; remove it and restore to an empty topic", statePath, err)
		}
		if old.Topic != fresh.Topic || old.To != fresh.To || old.Cluster != fresh.Cluster || old.Partitions == nil {
			return nil, false, fmt.Errorf("%s is the state of restoring %s to %s on cluster %s, not of %s to %s on cluster %s; name another file with --state",
				statePath, old.Topic, old.To, old.Cluster, fresh.Topic, fresh.To, fresh.Cluster)
		}
		j.state, begun = old, true
	case !errors.Is(err, fs.ErrNotExist):
		return nil, false, fmt.Errorf("reading the state of the restore: %w", err)
	}
	if j.offsets, err = os.OpenFile(offsetsPath, os.O_RDWR|os.O_CREATE, 0o644); err != nil {
		return nil, false, fmt.Errorf("opening the mapping of offsets: %w", err)
	}
	size, err := j.offsets.Seek(0, 2)
	switch {
	case err == nil && size < j.state.OffsetsBytes:
		err = fmt.Errorf("it has %d bytes, and had %d; name the file of the last run with --offsets", size, j.state.OffsetsBytes)
	case err == nil && !begun && size > 0:
		err = errors.New("it is there already, and is not this restore's; name another file with --offsets, or move it away")
	case err == nil:
		err = j.offsets.Truncate(j.state.OffsetsBytes)
	}
	if err != nil {
		_ = j.offsets.Close()
		return nil, false, fmt.Errorf("opening the mapping of offsets in %s: %w", offsetsPath, err)
	}
	return j, begun, nil
}

func (j *journal) close() error { return j.offsets.Close() }

// done notes that a partition has come to an object's end: first the mapping, then the state that counts it.
func (j *journal) done(partition int32, at restorePartAt, moved []Moved) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	var lines []byte
	for _, m := range moved {
		b, err := json.Marshal(m)
		if err != nil {
			return fmt.Errorf("writing the mapping of offsets: %w", err)
		}
		lines = append(append(lines, b...), '\n')
	}
	if _, err := j.offsets.WriteAt(lines, j.state.OffsetsBytes); err != nil {
		return fmt.Errorf("writing the mapping of offsets: %w", err)
	}
	if err := j.offsets.Sync(); err != nil {
		return fmt.Errorf("writing the mapping of offsets: %w", err)
	}
	j.state.OffsetsBytes += int64(len(lines))
	j.state.Partitions[partition] = &at
	return j.save()
}

// save replaces the state's file; a reader, or a run after a crash, sees the old or the new one.
func (j *journal) save() error {
	b, err := json.MarshalIndent(j.state, "", "  ")
	if err != nil {
		return fmt.Errorf("writing the state of the restore: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(j.path), filepath.Base(j.path)+".*.tmp")
	if err != nil {
		return fmt.Errorf("writing the state of the restore: %w", err)
	}
	_, err = f.Write(append(b, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), j.path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("writing the state of the restore: %w", err)
	}
	return nil
}
