//go:build servers

package archiver

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"databus/test/crash"
	"databus/test/process"
)

// instance is one instance of the archiver: its id, directory and settings stay over all of its runs.
type instance struct {
	process.Program
	w          *world
	id         string
	maxRecords int // of an object: instances that differ cut elsewhere
}

func (w *world) newInstance(id string, maxRecords int) *instance {
	return &instance{Program: process.Program{Name: "archiver " + id, Log: filepath.Join(w.dir, "archiver-"+id+".log")}, w: w, id: id, maxRecords: maxRecords}
}

func (i *instance) args() (args []string) {
	cfg := i.w.config(i.maxRecords)
	for _, s := range []string{
		"kafka.brokers=" + strings.Join(i.w.seeds, ","), "registry.url=" + i.w.registry, "registry.register_schemas=true",
		"bucket.url=" + i.w.store.BucketURL(i.w.bucket),
		"instance.id=" + i.id, "instance.state_dir=" + filepath.Join(i.w.dir, "state-"+i.id), "http.listen=", "log.format=text",
		"archiver.topics=" + topic, fmt.Sprintf("archiver.max_records=%d", cfg.MaxRecords), "archiver.idle=" + cfg.Idle.String(),
		"archiver.retry_max=" + cfg.RetryMax.String(), "archiver.session_timeout=" + cfg.SessionTimeout.String(),
		"archiver.transaction_timeout=" + cfg.TransactionTimeout.String(), "archiver.sort_by=" + strings.Join(cfg.SortBy, ","),
	} {
		args = append(args, "--set", s)
	}
	return args
}

// start runs the archiver's own program, with these settings beside its own.
func (i *instance) start(set ...string) error {
	args := i.args()
	for _, s := range set {
		args = append(args, "--set", s)
	}
	return i.Start(exec.Command(filepath.Join(programs(i.w.t), "archiver"), args...))
}

// crash runs the archiver until it kills itself at a step.
func (i *instance) crash(p crash.Point) error {
	return crash.Run(&i.Program, exec.Command(filepath.Join(programs(i.w.t), "instance"), i.args()...), p, time.Minute)
}
