package usage

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestProveGroupOnEmbedded(t *testing.T) {
	w := onEmbedded(t)
	w.transaction = 3 * time.Second // waited for
	proveGroup(t, w)
}

// proveGroup lets instances join, leave, die, freeze and start over, under load: the group goes on, every result is
// exact, and who was replaced ends and says why.
func proveGroup(t *testing.T, w *world) {
	ctx := t.Context()
	l := newLoad(w, 5)
	if err := l.firstContracts(ctx); err != nil {
		t.Fatal(err)
	}
	stop := l.background(t, size(400, 300))
	leave := "usage-aggregator.leave_on_stop=true"
	a, b, c := w.newInstance(aggregator, "a"), w.newInstance(aggregator, "b"), w.newInstance(aggregator, "c", leave)
	la, lb := w.newInstance(limiter, "a"), w.newInstance(limiter, "b")
	b.freezes, lb.freezes = true, true
	all := []*instance{a, b, c, la, lb}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%v%s", err, tails(all))
		}
	}
	// goesOn waits until everything sent up to now is counted and says how long that took.
	goesOn := func(what string, since time.Time) time.Duration {
		t.Helper()
		for _, s := range services {
			ends, err := w.endsOf(ctx, inputs[s]...)
			must(err)
			must(w.passed(ctx, s, ends))
		}
		took := time.Since(since)
		t.Logf("%s: everything sent is counted after %v", what, took.Round(time.Millisecond))
		return took
	}
	must(a.start())
	must(la.start())
	goesOn("one instance", time.Now())

	for round := range size(1, 5) {
		now := time.Now()
		must(b.start())
		must(lb.start())
		must(w.members(ctx, aggregator, 2))
		goesOn("the second instances join", now)
		now = time.Now()
		must(c.start())
		must(w.members(ctx, aggregator, 3))
		goesOn("a third one joins", now)

		now = time.Now()
		must(c.stop())
		figures.takeover(goesOn("the third one leaves", now), false)

		now = time.Now()
		if ran, err := b.kill9(); err != nil || !ran {
			t.Fatal(ran, err)
		}
		figures.takeover(goesOn("the second one is killed and stays away", now), true)
		must(b.start())
		must(w.members(ctx, aggregator, 2))
		goesOn("it comes back", time.Now())

		// One that stood still for longer than its session and its transaction, and that nobody has replaced: where its
		// transaction is gone it ends and says so, else it joins again.
		must(w.freeze(ctx, b))
		now = time.Now()
		figures.takeover(goesOn("the second one freezes", now), true)
		time.Sleep(time.Until(now.Add(w.transaction + time.Second)))
		b.signal(syscall.SIGCONT)
		for !b.run.gone(50*time.Millisecond) && w.memberCount(ctx, aggregator) < 2 {
			if time.Since(now) > patience {
				t.Fatalf("a zombie neither ends nor joins again:\n%s", b.tail())
			}
		}
		if b.run.gone(0) {
			must(endsFenced(b))
			must(b.start())
		}
		must(w.members(ctx, aggregator, 2))
		goesOn("it is back", time.Now())

		// One that has been replaced by another machine with the same id.
		for _, old := range []*instance{b, lb} {
			must(w.freeze(ctx, old))
			again := w.newInstance(old.service, old.id)
			again.freezes = true
			all = append(all, again)
			must(again.start())
			goesOn("a machine replaces a frozen one of "+old.service, time.Now())
			old.signal(syscall.SIGCONT)
			must(endsFenced(old))
			goesOn("the zombie is gone", time.Now())
			if again.run.gone(0) {
				t.Fatal(again.ended())
			}
			if old == b {
				b = again
			} else {
				lb = again
			}
		}

		for _, i := range []*instance{a, b, la, lb} {
			if ran, err := i.kill9(); err != nil || !ran {
				t.Fatal(ran, err, i.tail())
			}
		}
		now = time.Now()
		for _, i := range []*instance{a, b, la, lb} {
			must(i.start())
		}
		goesOn("the whole group starts again", now)
		if round+1 < size(1, 5) {
			must(b.stop())
			must(lb.stop())
		}
	}
	stop()
	w.verify("group", all...)
}

// members waits until a group is stable with n members.
func (w *world) members(ctx context.Context, group string, n int) error {
	for deadline := time.Now().Add(patience); w.memberCount(ctx, group) != n; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("group %s has not become stable with %d members but with %d", group, n, w.memberCount(ctx, group))
		}
	}
	return nil
}

// memberCount is the size of a stable group, else 0.
func (w *world) memberCount(ctx context.Context, group string) int {
	described, err := w.admin.DescribeGroups(ctx, group)
	if g := described[group]; err == nil && g.Err == nil && g.State == "Stable" {
		return len(g.Members)
	}
	return 0
}

// freeze stops an instance in the middle of a transaction.
func (w *world) freeze(ctx context.Context, i *instance) error {
	i.signal(syscall.SIGUSR1)
	for deadline := time.Now().Add(patience); !i.stopped(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("%s %s never froze:\n%s", i.service, i.id, i.tail())
		}
	}
	listed, err := w.admin.ListTransactions(ctx, nil, []string{"Ongoing"})
	if err != nil {
		return fmt.Errorf("listing transactions: %w", err)
	}
	for _, t := range listed {
		if t.TxnID == i.service+"-"+i.id {
			return nil
		}
	}
	return fmt.Errorf("%s %s froze, and its transaction is not open: %v", i.service, i.id, listed.TransactionalIDs())
}

// stopped says whether the process is stopped by a signal.
func (i *instance) stopped() bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", i.run.pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(rest, "T")
}

// endsFenced waits until a zombie ends, and checks that it failed and says that it was replaced.
func endsFenced(i *instance) error {
	if !i.run.gone(patience) {
		_, _ = i.kill9()
		return fmt.Errorf("zombie %s %s goes on:\n%s", i.service, i.id, i.tail())
	}
	said := i.output()
	if i.run.err == nil || i.run.killed() || !strings.Contains(said, "is fenced: ") {
		return fmt.Errorf("zombie %s %s ended with %v and does not say that it was fenced:\n%s", i.service, i.id, i.run.err, i.tail())
	}
	return nil
}
