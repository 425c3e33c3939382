package stream

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// While a commit waits for brokers that do not answer, the instance is not ready and says why; it is again when they do,
// and nothing is counted twice.
func TestCommitThatWaitsIsNotReady(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	dir := t.TempDir()
	b.processed(dir, 100)
	var hold atomic.Bool
	held := make(chan struct{}, 1)
	hold.Store(true)
	cluster := b.stack.Broker.Cluster()
	cluster.ControlKey(kmsg.EndTxn.Int16(), func(kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		if hold.CompareAndSwap(true, false) {
			held <- struct{}{}
			time.Sleep(1500 * time.Millisecond) // the whole broker stands still
		}
		return nil, nil, false
	})
	o := b.options("0", dir)
	o.TransactionTimeout = 4 * time.Second
	r := b.start(o)
	b.events(100)
	<-held
	said := ""
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		ready, reason := r.Ready()
		if !ready {
			said = reason
		}
		if ready && said != "" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("ready %v, %q; it had said %q", ready, reason, said)
		}
	}
	if !strings.Contains(said, "committing: the brokers have not answered for 1s") {
		t.Errorf("not ready because of %q", said)
	}
	r.finish()
	b.check(map[string]string{"0": dir})
}
