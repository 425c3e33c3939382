//go:build servers

package archiver

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
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

// instance is one instance of the archiver: its id, directory and settings stay over all of its runs.
type instance struct {
	w          *world
	id         string
	maxRecords int // of an object: instances that differ cut elsewhere
	run        *process
	mark       int64 // where the log of the current run begins
}

func (i *instance) log() string { return filepath.Join(i.w.dir, "archiver-"+i.id+".log") }

func (i *instance) args() (args []string) {
	cfg := i.w.config(i.maxRecords)
	for _, s := range []string{
		"kafka.brokers=" + strings.Join(i.w.seeds, ","), "registry.url=" + i.w.registry, "registry.register_schemas=true",
		"bucket.url=" + i.w.bucketURL(i.w.bucket, i.w.store.Endpoint, ""),
		"instance.id=" + i.id, "instance.state_dir=" + filepath.Join(i.w.dir, "state-"+i.id), "http.listen=", "log.format=text",
		"archiver.topics=" + topic, fmt.Sprintf("archiver.max_records=%d", cfg.MaxRecords), "archiver.idle=" + cfg.Idle.String(),
		"archiver.retry_max=" + cfg.RetryMax.String(), "archiver.session_timeout=" + cfg.SessionTimeout.String(),
		"archiver.transaction_timeout=" + cfg.TransactionTimeout.String(),
	} {
		args = append(args, "--set", s)
	}
	return args
}

// start runs the archiver's own program.
func (i *instance) start() error {
	return i.launch(exec.Command(filepath.Join(programs(i.w.t), "archiver"), i.args()...))
}

// startCrashing runs the archiver so that it kills itself at a step, the after-th time that it gets there, and returns
// the file that will hold the step.
func (i *instance) startCrashing(point string, after int) (file string, err error) {
	file = filepath.Join(i.w.dir, fmt.Sprintf("point-%d", i.w.serial.Add(1)))
	cmd := exec.Command(filepath.Join(programs(i.w.t), "instance"), i.args()...)
	cmd.Env = append(os.Environ(), "CRASH_POINT="+point, fmt.Sprintf("CRASH_AFTER=%d", after), "CRASH_FILE="+file)
	return file, i.launch(cmd)
}

func (i *instance) launch(cmd *exec.Cmd) error {
	if i.running() {
		return fmt.Errorf("starting archiver %s: it runs already", i.id)
	}
	log, err := os.OpenFile(i.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	if info, err := log.Stat(); err == nil {
		i.mark = info.Size()
	}
	cmd.Stdout, cmd.Stderr = log, log
	if i.run, err = spawn(cmd); err != nil {
		return fmt.Errorf("starting archiver %s: %w", i.id, err)
	}
	return nil
}

func (i *instance) running() bool { return i.run != nil && !i.run.gone(0) }

// kill9 ends the run as a crash would; a run that ended by itself is an error.
func (i *instance) kill9() error {
	if i.running() {
		_ = syscall.Kill(i.run.pid, syscall.SIGKILL)
	}
	if !i.run.gone(30*time.Second) || !i.run.killed() {
		return fmt.Errorf("archiver %s ended by itself (%v):\n%s", i.id, i.run.err, i.tail())
	}
	return nil
}

// stop ends the run in good order.
func (i *instance) stop() error {
	_ = syscall.Kill(i.run.pid, syscall.SIGTERM)
	if !i.run.gone(time.Minute) || i.run.err != nil {
		return fmt.Errorf("stopping archiver %s: %v\n%s", i.id, i.run.err, i.tail())
	}
	return nil
}

func (i *instance) tail() string {
	b, err := os.ReadFile(i.log())
	if err != nil || int64(len(b)) < i.mark {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(b[i.mark:])), "\n")
	return "    " + strings.Join(lines[max(0, len(lines)-15):], "\n    ")
}
