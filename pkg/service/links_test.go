package service

import (
	"os/exec"
	"strings"
	"testing"
)

// A service links what it uses: those that only count are not to carry the clients of buckets, key management and databases, a third
// of a program and of the memory of an idle one.
func TestLinksNoStores(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	deps := strings.Fields(string(out))
	if len(deps) < 100 {
		t.Fatalf("%d packages only", len(deps))
	}
	for _, dep := range deps {
		for _, store := range []string{"github.com/aws/", "github.com/tink-crypto/", "github.com/apache/cassandra-gocql-driver", "github.com/cockroachdb/pebble"} {
			if strings.HasPrefix(dep, store) {
				t.Errorf("links %s", dep)
			}
		}
	}
}
