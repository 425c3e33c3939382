//go:build servers

package usage

import (
	"strings"
	"testing"

	"databus/pkg/embedded"
	"databus/test/prove"
	"databus/test/servers"
)

// onKafka is a world on brokers that run, with a registry in this process.
func onKafka(t testing.TB, brokers string) *world {
	t.Helper()
	registry, err := embedded.StartRegistry(embedded.RegistryOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = registry.Close() })
	return newWorld(t, programs(t), strings.Split(brokers, ","), registry.URL(), usageTopics())
}

// A server of its own, because the proofs use the catalogue's topics.
func realKafka(t *testing.T) *world {
	t.Helper()
	kafka, err := servers.StartKafka(t.Context(), servers.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(kafka.Close)
	return onKafka(t, kafka.Addr)
}

func TestProveKillsOnKafka(t *testing.T) {
	proveKills(t, realKafka(t), prove.Size(5, 100), prove.Size(1, 3))
}
