package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"databus/services/ingest/client"
	"databus/test/process"
)

// A dev is a running `databus dev`.
type dev struct {
	*command
	dir      string
	brokers  []string
	registry string
	api      *client.Client
}

// startDev starts it on a directory; ready waits until it can be used.
func startDev(t testing.TB, dir, api string, args ...string) *dev {
	t.Helper()
	args = append([]string{"--dir", dir, "dev", "--api", api, "--broker-port", "0", "--registry-port", "0"}, args...)
	return &dev{command: start(t, nil, program(t, "cmd/databus"), args...), dir: dir, api: &client.Client{URL: "http://" + api}}
}

// ready waits until every service is ready and reads where they are. It returns false when the process has ended.
func (d *dev) ready(t testing.TB, limit time.Duration) bool {
	t.Helper()
	deadline := time.After(limit)
	for !strings.Contains(d.out.String(), "databus is ready") {
		select {
		case <-d.Done():
			return false
		case <-deadline:
			t.Fatalf("databus dev is not ready within %v\n%s%s%s", limit, &d.out, &d.err, tail(d.log(), 15))
		case <-time.After(20 * time.Millisecond):
		}
	}
	var addresses struct {
		Brokers  []string `json:"brokers"`
		Registry string   `json:"registry"`
	}
	b, err := os.ReadFile(filepath.Join(d.dir, "dev.json"))
	if err == nil {
		err = json.Unmarshal(b, &addresses)
	}
	if err != nil {
		t.Fatalf("reading the addresses of databus dev: %v", err)
	}
	d.brokers, d.registry = addresses.Brokers, addresses.Registry
	return true
}

// mustReady is ready for a process that nobody kills.
func (d *dev) mustReady(t testing.TB) {
	t.Helper()
	if !d.ready(t, 2*time.Minute) {
		t.Fatalf("databus dev ended with exit code %d\n%s%s%s", d.ExitCode(), &d.out, &d.err, tail(d.log(), 15))
	}
}

func (d *dev) log() string { return filepath.Join(d.dir, "databus.log") }

// freeAddress is an address of this machine on which nobody listens.
func freeAddress(t testing.TB) string {
	t.Helper()
	address, err := process.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// tail is the end of a file, for a failed test's message.
func tail(path string, lines int) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	all := strings.Split(strings.TrimSpace(string(b)), "\n")
	return fmt.Sprintf("the end of %s:\n%s\n", path, strings.Join(all[max(0, len(all)-lines):], "\n"))
}
