package ingest

import (
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	code := m.Run()
	figures.print()
	if built.dir != "" {
		_ = os.RemoveAll(built.dir)
	}
	os.Exit(code)
}
