//go:build servers

// Package stream runs the exactly-once loop's own tests against real Kafka: restarts, crashes at every point, two
// instances, zombies, refusals.
package stream

import (
	"os"
	"os/exec"
	"testing"

	"databus/test/servers"
)

func TestMain(m *testing.M) { servers.Main(m) }

func TestStreamOnRealKafka(t *testing.T) {
	// A server of its own, because the tests delete topics and groups.
	kafka, err := servers.StartKafka(t.Context(), servers.Options{Config: map[string]string{"group.min.session.timeout.ms": "1000"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(kafka.Close)
	// All but those that inject faults into the embedded broker.
	cmd := exec.CommandContext(t.Context(), "go", "test", "-count=1", "-timeout=15m", "-parallel=1", "-v",
		"-run=TestCleanRestart|TestStop|TestCrashes/kept=true|TestTwoInstances|TestPoison|TestTablesFirst|TestOffsets|TestGap|TestRestoreBehind|TestZombie|TestRandomCrashes", "databus/pkg/stream")
	cmd.Env = append(os.Environ(), "STREAM_TEST_KAFKA="+kafka.Addr)
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
}
