// Package statetest is the disk that tests of states lose power with: what was not synced is lost, whole or in part, in each copy that
// CrashClone takes. It may be used by any number of goroutines.
package statetest

import "github.com/cockroachdb/pebble/v2/vfs"

// Disk is a crashable file system in memory whose copies may be taken while it is written, by any number of goroutines.
//
// MemFS.ReuseForWrite takes the lock that CrashClone waits for twice: a copy between the two stands still for ever, and so
// does whoever writes (Pebble v2.1.7).
type Disk struct{ *vfs.MemFS }

// ReuseForWrite implements vfs.FS by its two steps, each of which takes the lock for itself.
func (d Disk) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if err := d.Rename(oldname, newname); err != nil {
		return nil, err
	}
	return d.OpenReadWrite(newname, category)
}
