package statetest_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"databus/pkg/state/statetest"
)

func TestCopiesWhileFilesAreReused(t *testing.T) {
	disk := statetest.Disk{MemFS: vfs.NewCrashableMem()}
	f, err := disk.Create("0", vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	done := make(chan struct{})
	var copies sync.WaitGroup
	copies.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				disk.CrashClone(vfs.CrashCloneCfg{})
			}
		}
	})
	for i := range 50_000 {
		f, err := disk.ReuseForWrite(fmt.Sprint(i), fmt.Sprint(i+1), vfs.WriteCategoryUnspecified)
		if err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
	}
	close(done)
	copies.Wait()
	f, err = disk.Open("50000")
	if err != nil {
		t.Fatal("the file is lost:", err)
	}
	_ = f.Close()
}
