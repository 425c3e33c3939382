package ingest

import (
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	code := m.Run()
	figures.print()
	binaries.Remove()
	os.Exit(code)
}
