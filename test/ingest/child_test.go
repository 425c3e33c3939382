package ingest

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// process is one run of a program. It dies with this process.
type process struct {
	pid  int
	done chan struct{} // closed when it is gone
	err  error         // set before done is closed
}

// spawn starts cmd. The kernel ties Pdeathsig to the thread that forks, so that thread is kept.
func spawn(cmd *exec.Cmd) (*process, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p := &process{done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		p.pid = cmd.Process.Pid
		started <- nil
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, <-started
}

// gone waits for the process's end, for at most so long.
func (p *process) gone(within time.Duration) bool {
	select {
	case <-p.done:
		return true
	default:
	}
	select {
	case <-p.done:
		return true
	case <-time.After(within):
		return false
	}
}

// killed says whether a process that is gone ended by SIGKILL.
func (p *process) killed() bool {
	var exit *exec.ExitError
	if !errors.As(p.err, &exit) {
		return false
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// instance is one instance of ingest: its id, address and directory stay over all of its runs.
type instance struct {
	w       *world
	id      string
	api     string // host:port
	admin   string
	dir     string // of its state
	log     string
	applies bool
	run     *process
	mark    int64 // where the log of the current run begins
}

var serials atomic.Int64

func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// newInstance describes an instance; nothing is started.
func (w *world) newInstance(id string) *instance {
	i := &instance{w: w, id: id, api: freeAddress(w.t), admin: freeAddress(w.t), dir: filepath.Join(w.dir, "state-"+id), log: filepath.Join(w.dir, "ingest-"+id+".log"),
		applies: w.shared || len(w.instances) == 0}
	w.instances = append(w.instances, i)
	return i
}

func (i *instance) args() []string {
	var args []string
	store := i.w.identity
	if !i.applies {
		store = "mem://"
	}
	for _, s := range []string{
		"kafka.brokers=" + strings.Join(i.w.brokers, ","), "registry.url=" + i.w.registry, "registry.register_schemas=true",
		"bucket.url=file://" + i.w.bucket, "identity.url=" + store, "keys.file=" + i.w.keyFile,
		"instance.id=" + i.id, "instance.state_dir=" + i.dir, "http.listen=" + i.admin, "log.format=text",
		"ingest.api.listen=" + i.api, "ingest.requests.commit_interval=50ms", "ingest.evidence.commit_interval=50ms",
		"ingest.applier.retry=100ms", fmt.Sprint("ingest.applier.enabled=", i.applies),
	} {
		args = append(args, "--set", s)
	}
	return args
}

// start runs the service's own program.
func (i *instance) start() error {
	return i.launch(exec.Command(filepath.Join(i.w.bin, "ingest"), i.args()...))
}

// startCrashing runs the service so that it kills itself at a point, the after-th time that it gets there, and returns
// the file that will hold the point.
func (i *instance) startCrashing(point string, after int) (file string, err error) {
	file = filepath.Join(i.w.dir, fmt.Sprintf("point-%d", serials.Add(1)))
	cmd := exec.Command(filepath.Join(i.w.bin, "instance"), i.args()...)
	cmd.Env = append(os.Environ(), "CRASH_POINT="+point, fmt.Sprintf("CRASH_AFTER=%d", after), "CRASH_FILE="+file)
	return file, i.launch(cmd)
}

func (i *instance) launch(cmd *exec.Cmd) error {
	if i.run != nil && !i.run.gone(0) {
		return fmt.Errorf("starting %s: it runs already", i.id)
	}
	log, err := os.OpenFile(i.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	if info, err := log.Stat(); err == nil {
		i.mark = info.Size()
	}
	cmd.Stdout, cmd.Stderr = log, log
	if i.run, err = spawn(cmd); err != nil {
		return fmt.Errorf("starting %s: %w", i.id, err)
	}
	return nil
}

// ready says whether the instance's readiness probe answers yes.
func (i *instance) ready() bool {
	resp, err := http.Get("http://" + i.admin + "/readyz")
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// kill9 ends the run as a crash would, and says whether it still ran.
func (i *instance) kill9() (ran bool, err error) {
	if i.run.gone(0) {
		return false, nil
	}
	_ = syscall.Kill(i.run.pid, syscall.SIGKILL)
	if !i.run.gone(30 * time.Second) {
		return true, fmt.Errorf("killing %s: it is still there", i.id)
	}
	return i.run.killed(), nil
}

// stop ends the run in good order.
func (i *instance) stop() error {
	_ = syscall.Kill(i.run.pid, syscall.SIGTERM)
	if !i.run.gone(time.Minute) {
		_, _ = i.kill9()
		return fmt.Errorf("stopping %s: it does not end\n%s", i.id, i.tail())
	}
	if i.run.err != nil {
		return fmt.Errorf("stopping %s: %w\n%s", i.id, i.run.err, i.tail())
	}
	return nil
}

func (i *instance) tail() string {
	b, err := os.ReadFile(i.log)
	if err != nil || int64(len(b)) < i.mark {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(b[i.mark:])), "\n")
	return "    " + strings.Join(lines[max(0, len(lines)-15):], "\n    ")
}

// ended describes a run that ended although nobody asked it to.
func (i *instance) ended() error {
	return fmt.Errorf("%s ended by itself (%v):\n%s", i.id, i.run.err, i.tail())
}
