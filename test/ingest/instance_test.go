package ingest

import (
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"databus/test/crash"
	"databus/test/process"
)

// instance is one instance of ingest: its id, address and directory stay over all of its runs.
type instance struct {
	process.Program
	w       *world
	id      string
	api     string // host:port
	admin   string
	dir     string // of its state
	applies bool
}

func freeAddress(t testing.TB) string {
	t.Helper()
	address, err := process.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// newInstance describes an instance; nothing is started.
func (w *world) newInstance(id string) *instance {
	i := &instance{Program: process.Program{Name: "ingest " + id, Log: filepath.Join(w.dir, "ingest-"+id+".log")},
		w: w, id: id, api: freeAddress(w.t), admin: freeAddress(w.t), dir: filepath.Join(w.dir, "state-"+id), applies: w.shared || len(w.instances) == 0}
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
	return i.Start(exec.Command(filepath.Join(i.w.bin, "ingest"), i.args()...))
}

// crash runs the service until it kills itself at a point.
func (i *instance) crash(p crash.Point) error {
	return crash.Run(&i.Program, exec.Command(filepath.Join(i.w.bin, "instance"), i.args()...), p, patience)
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
