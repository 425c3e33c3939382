package usage

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"databus/test/prove"
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
	stop := l.background(t, prove.Size(400, 300))
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

	for round := range prove.Size(1, 5) {
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
		must(c.Stop())
		figures.takeover(goesOn("the third one leaves", now), false)

		now = time.Now()
		must(b.Kill9())
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
		b.Signal(syscall.SIGCONT)
		for !b.Ends(50*time.Millisecond) && w.memberCount(ctx, aggregator) < 2 {
			if time.Since(now) > patience {
				t.Fatalf("a zombie neither ends nor joins again:\n%s", b.Tail())
			}
		}
		if !b.Running() {
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
			old.Signal(syscall.SIGCONT)
			must(endsFenced(old))
			goesOn("the zombie is gone", time.Now())
			if !again.Running() {
				t.Fatal(again.Ended())
			}
			if old == b {
				b = again
			} else {
				lb = again
			}
		}

		for _, i := range []*instance{a, b, la, lb} {
			must(i.Kill9())
		}
		now = time.Now()
		for _, i := range []*instance{a, b, la, lb} {
			must(i.start())
		}
		goesOn("the whole group starts again", now)
		if round+1 < prove.Size(1, 5) {
			must(b.Stop())
			must(lb.Stop())
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
	i.Signal(syscall.SIGUSR1)
	for deadline := time.Now().Add(patience); !i.Frozen(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("%s never froze:\n%s", i.Name, i.Tail())
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
	return fmt.Errorf("%s froze, and its transaction is not open: %v", i.Name, listed.TransactionalIDs())
}

// endsFenced waits until a zombie ends, and checks that it failed and says that it was replaced.
func endsFenced(i *instance) error {
	if !i.Ends(patience) {
		_ = i.Kill()
		return fmt.Errorf("zombie %s goes on:\n%s", i.Name, i.Tail())
	}
	said := i.Output()
	if i.Err() == nil || i.Killed() || !strings.Contains(said, "is fenced: ") {
		return fmt.Errorf("zombie %s ended with %v and does not say that it was fenced:\n%s", i.Name, i.Err(), i.Tail())
	}
	return nil
}
