package service

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/topics"
	"databus/schemas"
)

// stack is an in-process broker with the catalogue's topics, and a registry that only answers a ping.
type stack struct {
	broker   *kfake.Cluster
	registry *httptest.Server
	down     *toggle
}

type toggle struct {
	mu   sync.Mutex
	down bool
}

func (t *toggle) set(down bool) { t.mu.Lock(); t.down = down; t.mu.Unlock() }
func (t *toggle) get() bool     { t.mu.Lock(); defer t.mu.Unlock(); return t.down }

func startStack(t *testing.T) stack {
	t.Helper()
	broker, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Close)
	down := &toggle{}
	registry := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if down.get() || r.URL.Path != "/api/subjects" {
			http.Error(w, "no", http.StatusNotFound)
			return
		}
		fmt.Fprint(w, "[]")
	}))
	t.Cleanup(registry.Close)
	return stack{broker, registry, down}
}

func (s stack) applyTopics(t *testing.T) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(s.broker.ListenAddrs()...))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := topics.Apply(t.Context(), kadm.NewClient(client), schemas.Catalogue(), topics.Options{ReplicationFactor: 1}); err != nil {
		t.Fatal(err)
	}
}

func (s stack) args(more ...string) []string {
	return append([]string{
		"--set", "kafka.brokers=" + strings.Join(s.broker.ListenAddrs(), ","),
		"--set", "registry.url=" + s.registry.URL + "/api",
		"--set", "instance.id=one", "--set", "log.level=debug",
	}, more...)
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}
func (b *lockedBuffer) String() string { b.mu.Lock(); defer b.mu.Unlock(); return b.b.String() }
