package usage

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
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

// gone waits for the process's end; with 0 it only looks.
func (p *process) gone(within time.Duration) bool {
	if within <= 0 {
		select {
		case <-p.done:
			return true
		default:
			return false
		}
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

// instance is one instance of a service: its id and its directories stay over all of its runs.
type instance struct {
	w       *world
	service string
	id      string
	dir     string // of its state; another one plays another machine
	log     string
	set     []string // settings beside those of the world
	freezes bool     // freeze will be asked for
	run     *process
	mark    int64 // where the log of the current run begins
}

var serials atomic.Int64

// newInstance describes an instance; nothing is started.
func (w *world) newInstance(service, id string, set ...string) *instance {
	dir := filepath.Join(w.dir, fmt.Sprintf("machine-%d", serials.Add(1)))
	return &instance{w: w, service: service, id: id, dir: dir, log: filepath.Join(w.dir, service+"-"+id+"-"+filepath.Base(dir)+".log"), set: set}
}

// stateDir is where the service keeps its rows.
func (i *instance) stateDir() string { return filepath.Join(i.dir, i.service, i.id, "stream") }

func (i *instance) args() []string {
	var args []string
	for _, s := range append([]string{
		"kafka.brokers=" + strings.Join(i.w.brokers, ","), "registry.url=" + i.w.registry, "registry.register_schemas=true",
		"instance.id=" + i.id, "instance.state_dir=" + i.dir, "http.listen=", "log.format=text",
		i.service + ".session_timeout=" + i.w.session.String(), i.service + ".transaction_timeout=" + i.w.transaction.String(),
		i.service + ".commit_interval=" + i.w.commit.String(),
	}, i.set...) {
		args = append(args, "--set", s)
	}
	if i.service == aggregator {
		args = append(args, "--set", aggregator+".dedup_window="+i.w.window.String())
	}
	return args
}

// start runs the service's own program, or the one that can freeze.
func (i *instance) start() error {
	if i.freezes {
		return i.launch(exec.Command(filepath.Join(i.w.bin, "instance"), append([]string{i.service}, i.args()...)...))
	}
	return i.launch(exec.Command(filepath.Join(i.w.bin, i.service), i.args()...))
}

// startCrashing runs the service so that it kills itself at a point, the after-th time that it gets there, and returns
// the file that will hold the point.
func (i *instance) startCrashing(point string, after int) (file string, err error) {
	file = filepath.Join(i.w.dir, fmt.Sprintf("point-%d", serials.Add(1)))
	cmd := exec.Command(filepath.Join(i.w.bin, "instance"), append([]string{i.service}, i.args()...)...)
	cmd.Env = append(os.Environ(), "CRASH_POINT="+point, fmt.Sprintf("CRASH_AFTER=%d", after), "CRASH_FILE="+file)
	return file, i.launch(cmd)
}

func (i *instance) launch(cmd *exec.Cmd) error {
	if i.run != nil && !i.run.gone(0) {
		return fmt.Errorf("starting %s %s: it runs already", i.service, i.id)
	}
	if err := os.MkdirAll(i.dir, 0o755); err != nil {
		return err
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
		return fmt.Errorf("starting %s %s: %w", i.service, i.id, err)
	}
	return nil
}

func (i *instance) signal(s syscall.Signal) { _ = syscall.Kill(i.run.pid, s) }

// kill9 ends the run as a crash would, and says whether it still ran.
func (i *instance) kill9() (ran bool, err error) {
	if i.run.gone(0) {
		return false, nil
	}
	i.signal(syscall.SIGKILL)
	if !i.run.gone(30 * time.Second) {
		return true, fmt.Errorf("killing %s %s: it is still there", i.service, i.id)
	}
	return i.run.killed(), nil
}

// stop ends the run in good order.
func (i *instance) stop() error {
	i.signal(syscall.SIGTERM)
	if !i.run.gone(time.Minute) {
		_, _ = i.kill9()
		return fmt.Errorf("stopping %s %s: it does not end\n%s", i.service, i.id, i.tail())
	}
	if i.run.err != nil {
		return fmt.Errorf("stopping %s %s: %w\n%s", i.service, i.id, i.run.err, i.tail())
	}
	return nil
}

// output is what the current run has printed.
func (i *instance) output() string {
	b, err := os.ReadFile(i.log)
	if err != nil || int64(len(b)) < i.mark {
		return ""
	}
	return string(b[i.mark:])
}

func (i *instance) tail() string {
	lines := strings.Split(strings.TrimSpace(i.output()), "\n")
	return "    " + strings.Join(lines[max(0, len(lines)-15):], "\n    ")
}

// ended describes a run that ended although nobody asked it to.
func (i *instance) ended() error {
	return fmt.Errorf("%s %s ended by itself (%v):\n%s", i.service, i.id, i.run.err, i.tail())
}
