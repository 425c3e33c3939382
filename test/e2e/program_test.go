package e2e

import (
	"testing"

	"databus/test/process"
	"databus/test/servers"
)

func TestMain(m *testing.M) { servers.Main(m, programs.Remove) }

// programs are built once for all tests, by whichever needs one first.
var programs process.Binaries

// program builds the command in a directory of the repository, such as cmd/databus, and returns the binary's path.
func program(t testing.TB, source string) string {
	t.Helper()
	path, err := programs.Path("databus/" + source)
	if err != nil {
		t.Fatal(err)
	}
	return path
}
