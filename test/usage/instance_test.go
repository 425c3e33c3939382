package usage

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"databus/test/crash"
	"databus/test/process"
)

// instance is one instance of a service: its id and its directories stay over all of its runs.
type instance struct {
	process.Program
	w       *world
	service string
	id      string
	dir     string   // of its state; another one plays another machine
	set     []string // settings beside those of the world
	freezes bool     // freeze will be asked for
}

var serials atomic.Int64

// newInstance describes an instance; nothing is started.
func (w *world) newInstance(service, id string, set ...string) *instance {
	dir := filepath.Join(w.dir, fmt.Sprintf("machine-%d", serials.Add(1)))
	return &instance{Program: process.Program{Name: service + " " + id, Log: filepath.Join(w.dir, service+"-"+id+"-"+filepath.Base(dir)+".log")},
		w: w, service: service, id: id, dir: dir, set: set}
}

// stateDir is where the service keeps its rows.
func (i *instance) stateDir() string { return filepath.Join(i.dir, i.service, i.id, "stream") }

func (i *instance) args() []string {
	var args []string
	for _, s := range append([]string{
		"kafka.brokers=" + strings.Join(i.w.brokers, ","), "registry.url=" + i.w.registry, "registry.register_schemas=true",
		"instance.id=" + i.id, "instance.state_dir=" + i.dir, "http.listen=", "log.format=text",
	}, i.set...) {
		args = append(args, "--set", s)
	}
	if slices.Contains(services, i.service) {
		args = append(args, "--set", i.service+".session_timeout="+i.w.session.String(), "--set", i.service+".transaction_timeout="+i.w.transaction.String(),
			"--set", i.service+".commit_interval="+i.w.commit.String())
	}
	if i.service == aggregator {
		// State is written often, so that crashes around it are hit.
		args = append(args, "--set", aggregator+".dedup_window="+i.w.window.String(), "--set", aggregator+".write_interval=500ms")
	}
	return args
}

// start runs the service's own program, or the one that can freeze.
func (i *instance) start() error {
	if err := os.MkdirAll(i.dir, 0o755); err != nil {
		return err
	}
	if i.freezes {
		return i.Start(i.crashing())
	}
	return i.Start(exec.Command(filepath.Join(i.w.bin, i.service), i.args()...))
}

// crash runs the service until it kills itself at a point.
func (i *instance) crash(p crash.Point) error {
	if err := os.MkdirAll(i.dir, 0o755); err != nil {
		return err
	}
	return crash.Run(&i.Program, i.crashing(), p, patience)
}

// crashing is the program that can kill and freeze itself.
func (i *instance) crashing() *exec.Cmd {
	return exec.Command(filepath.Join(i.w.bin, "instance"), append([]string{i.service}, i.args()...)...)
}
