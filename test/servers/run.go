package servers

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"databus/test/servers/fetch"
)

const (
	// Ports are taken below the range from which the kernel gives ports to outgoing connections (32768 and up): a client
	// that keeps connecting to a crashed server's port in that range may be given this very port, connect to itself,
	// and keep the server from coming back.
	firstPort, lastPort = 20000, 29999
	portTries           = 500

	keptRuns = 20
)

// reservePort returns a TCP port of 127.0.0.1 that is free now and that no other process using this cache gets until
// release, even while nothing listens on it.
func reservePort(cache fetch.Dir) (port int, release func(), err error) {
	for range portTries {
		port := firstPort + rand.IntN(lastPort-firstPort+1)
		release, err := cache.TryLock(fmt.Sprintf("port-%d", port))
		if errors.Is(err, fetch.ErrLocked) {
			continue
		}
		if err != nil {
			return 0, nil, err
		}
		l, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			release()
			continue
		}
		_ = l.Close()
		return port, release, nil
	}
	return 0, nil, fmt.Errorf("finding a free port: none of %d tries between %d and %d was free", portTries, firstPort, lastPort)
}

// newRun makes a directory for the data and logs of servers, and removes all but the newest 20 whose owners are gone.
// release says that this process no longer uses it.
func newRun(cache fetch.Dir) (dir string, release func(), err error) {
	pruneRuns(cache)
	dir, err = os.MkdirTemp(cache.Path("run"), time.Now().UTC().Format("20060102T150405")+"-*")
	if err != nil {
		return "", nil, fmt.Errorf("creating a run directory: %w", err)
	}
	release, err = cache.TryLock("run-" + filepath.Base(dir))
	if err != nil {
		return "", nil, fmt.Errorf("locking the run directory: %w", err)
	}
	return dir, release, nil
}

// pruneRuns does its best: what it cannot remove, the next run tries again. It takes each old run's lock, so a run
// whose owner lives stays, and so does one whose owner is just about to lock it, because that one is among the newest.
func pruneRuns(cache fetch.Dir) {
	runs, err := filepath.Glob(cache.Path("run", "*"))
	if err != nil || len(runs) <= keptRuns {
		return
	}
	slices.Sort(runs) // by start time
	for _, dir := range runs[:len(runs)-keptRuns] {
		name := "run-" + filepath.Base(dir)
		unlock, err := cache.TryLock(name)
		if err != nil {
			continue
		}
		_ = os.RemoveAll(dir)
		_ = os.Remove(cache.Path("locks", name+".lock"))
		unlock()
	}
}
