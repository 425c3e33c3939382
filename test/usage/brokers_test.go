//go:build servers

package usage

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"databus/schemas"
	"databus/test/prove"
	"databus/test/servers"
)

// Of three real brokers, the leader of a partition and the coordinator of a service's transactions are killed by turns,
// under load.
func TestProveBrokers(t *testing.T) {
	cluster, err := servers.StartKafkaCluster(t.Context(), 3, servers.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	w := onKafka(t, cluster.Addr())
	w.session, w.transaction = 6*time.Second, 10*time.Second // a failover takes up to 7 s
	ctx := t.Context()
	l := newLoad(w, 6)
	if err := l.firstContracts(ctx); err != nil {
		t.Fatal(err)
	}
	stop := l.background(t, 300)
	all := []*instance{w.newInstance(aggregator, "a"), w.newInstance(limiter, "a")}
	kept := keepRunning(all)
	goesOn := func() {
		t.Helper()
		for _, s := range services {
			ends, err := w.endsOf(ctx, inputs[s]...)
			if err == nil {
				err = w.passed(ctx, s, ends)
			}
			if err != nil {
				t.Fatalf("%v%s", err, tails(all))
			}
		}
	}
	goesOn()
	kills := prove.Size(1, 10)
	for n := range kills {
		var victim int32
		what := "leader"
		if n%2 == 1 {
			victim, err = w.leader(ctx, schemas.UsageCounts, int32(n)%8)
		} else {
			what = "transaction coordinator"
			victim, err = w.coordinator(ctx, aggregator+"-a")
		}
		if err != nil {
			t.Fatal(err)
		}
		broker := cluster.Brokers[victim-1]
		if err := broker.Kill9(); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		goesOn()
		t.Logf("kill %d: the %s, broker %d: everything sent is counted after %v", n+1, what, victim, time.Since(began).Round(time.Millisecond))
		if err := broker.Restart(ctx); err != nil {
			t.Fatal(err)
		}
		if n+1 < kills { // else nothing relies on it any more
			if err := w.inSync(ctx, 3); err != nil {
				t.Fatal(err)
			}
		}
		figures.mu.Lock()
		figures.brokerKills++
		figures.mu.Unlock()
	}
	stop()
	goesOn()
	if err := kept(); err != nil {
		t.Fatal(err)
	}
	w.verify("brokers", all...)
}

func (w *world) leader(ctx context.Context, topic string, partition int32) (int32, error) {
	details, err := w.admin.ListTopics(ctx, topic)
	if err != nil {
		return 0, err
	}
	p, ok := details[topic].Partitions[partition]
	if !ok || p.Leader < 1 {
		return 0, fmt.Errorf("partition %d of %s has no leader", partition, topic)
	}
	return p.Leader, nil
}

func (w *world) coordinator(ctx context.Context, id string) (int32, error) {
	found := w.admin.FindTxnCoordinators(ctx, id)
	c, ok := found[id]
	if !ok || c.Err != nil {
		return 0, fmt.Errorf("looking for the coordinator of %s: %w", id, c.Err)
	}
	return c.NodeID, nil
}

// inSync waits until every partition has n in-sync replicas.
func (w *world) inSync(ctx context.Context, n int) error {
	deadline := time.Now().Add(3 * patience) // a broker that starts on a busy machine takes minutes
	for {
		behind := 0
		details, err := w.admin.ListTopicsWithInternal(kadm.WithAuthorizedOps(ctx))
		details.EachPartition(func(p kadm.PartitionDetail) {
			if len(p.ISR) < n {
				behind++
			}
		})
		if err == nil && behind == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d partitions are not in sync (%w)", behind, err)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// keepRunning starts instances, and starts again what ends because a broker was away: where the outcome of a
// transaction is unknown, that is what an instance must do. kept ends that and says whether one ended for another reason.
func keepRunning(all []*instance) (kept func() error) {
	done := make(chan struct{})
	errs := make(chan error, len(all))
	var wg sync.WaitGroup
	for _, i := range all {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for {
				if err := i.start(); err != nil {
					errs <- err
					return
				}
				select {
				case <-done:
					return
				case <-i.Done():
				}
				if said := i.Output(); strings.Contains(said, "positions do not fit together") || i.Err() == nil {
					errs <- i.Ended()
					return
				}
				i.w.t.Log(i.Ended())
			}
		}()
	}
	return func() error {
		close(done)
		wg.Wait()
		select {
		case err := <-errs:
			return err
		default:
			return nil
		}
	}
}
