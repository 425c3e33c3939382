package archiver_test

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/schemas"
	"databus/services/archiver"
)

func TestArchivesEveryCommittedRecordOnce(t *testing.T) {
	parallel(t)
	w := newWorld(t)
	w.produce(w.usageRecords(1500), 40)
	bad := w.usageRecords(6)
	bad[0].Value = nil                                       // a tombstone, kept
	bad[1].Value = []byte("not Avro at all")                 // no registry prefix
	bad[2].Value = bad[2].Value[:9]                          // cut
	bad[3].Value = append(bad[3].Value, 1, 2, 3)             // too long
	bad[4].Value = []byte{}                                  // empty is no tombstone
	bad[5].Value = append(bad[5].Value[:5:5], 255, 255, 255) // a length that never ends
	w.produce(bad, 3)
	w.produce(w.usageRecords(200), 0)
	r := w.start("a", nil)
	w.archived(schemas.UsageEvents)
	s := w.verify(schemas.UsageEvents, nil)
	rows, dead := int64(0), int64(0)
	for _, objects := range s.objects {
		for _, f := range objects {
			rows, dead = rows+f.Rows, dead+f.DeadLetters
			if f.Rows+f.DeadLetters > 100 {
				t.Errorf("an object of %d records, cut at 100", f.Rows)
			}
		}
	}
	if rows != 1701 || dead != 5 {
		t.Errorf("%d rows and %d dead letters", rows, dead)
	}
	// More comes, also after a restart.
	w.produce(w.usageRecords(300), 10)
	w.archived(schemas.UsageEvents)
	r.stop(t)
	w.produce(w.usageRecords(300), 10)
	w.start("a", nil)
	w.archived(schemas.UsageEvents)
	w.verify(schemas.UsageEvents, nil)
}

// TestCrashInEveryGap lets an instance die at each step of a cut, again and again, with the same or another instance
// taking over, under load.
func TestCrashInEveryGap(t *testing.T) {
	steps := []archiver.Step{archiver.Encoded, archiver.Put, archiver.Transacting, archiver.Committed}
	for _, step := range steps {
		for _, successor := range []string{"same", "other"} {
			t.Run(string(step)+"/"+successor, func(t *testing.T) {
				parallel(t)
				w := newWorld(t)
				w.produce(w.usageRecords(900), 20)
				id := "a"
				for n := range int32(3) {
					w.start(id, crashAt(step, n+1)).crashed(t)
					if successor == "other" {
						id += "x"
					}
					w.produce(w.usageRecords(150), 5)
				}
				w.start(id, nil)
				w.archived(schemas.UsageEvents)
				w.verify(schemas.UsageEvents, nil)
			})
		}
	}
}

// TestCrashDuringAdoption: an object waits in the bucket, with a range that the next owner would cut elsewhere; its
// owners die while they adopt it.
func TestCrashDuringAdoption(t *testing.T) {
	for _, test := range []struct {
		name          string
		first, second int // MaxRecords of the two owners
	}{{"TheirsIsShorter", 30, 100}, {"TheirsIsLonger", 100, 30}, {"Equal", 50, 50}} {
		t.Run(test.name, func(t *testing.T) {
			parallel(t)
			w := newWorld(t)
			records := w.usageRecords(800)
			for i := 0; i < len(records); i += 17 {
				records[i].Value = records[i].Value[:8]
			}
			w.produce(records, 20)
			w.cfg.MaxRecords = test.first
			w.start("a", crashAt(archiver.Put, 1)).crashed(t)
			w.cfg.MaxRecords = test.second
			if test.first != test.second { // an equal object is not adopted but recognised
				w.start("b", crashAt(archiver.Adopting, 1)).crashed(t)
				w.start("c", crashAt(archiver.Adopted, 1)).crashed(t)
			}
			before := w.list(schemas.UsageEvents)
			w.start("d", nil)
			w.archived(schemas.UsageEvents)
			after := w.verify(schemas.UsageEvents, nil)
			for key, sum := range before.sums {
				if after.sums[key] != sum {
					t.Errorf("%s was replaced", key)
				}
			}
		})
	}
}

// TestZombieCannotCommit cuts an instance off between its upload and its transaction, until the group has moved on.
func TestZombieCannotCommit(t *testing.T) {
	parallel(t)
	w := newWorld(t)
	w.produce(w.usageRecords(400), 0)
	link := &network{}
	held, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	zombie := w.start("zombie", func(s archiver.Step, _ string, _ int32) error {
		if s == archiver.Put {
			once.Do(func() {
				link.freeze()
				close(held)
				<-release
			})
		}
		return nil
	}, func(p *archiver.Parts) {
		p.Client = append(p.Client, kgo.HeartbeatInterval(time.Second), kgo.Dialer(link.dial))
	})
	<-held
	w.start("heir", nil)
	w.archived(schemas.UsageEvents)
	link.thaw()
	close(release)
	w.produce(w.usageRecords(100), 0)
	w.archived(schemas.UsageEvents)
	w.verify(schemas.UsageEvents, nil)
	select {
	case err := <-zombie.done:
		t.Fatalf("the zombie ended with %v instead of joining again", err)
	default:
	}
}

// TestOrphanRace is the race for an object without a commit, played out: the first owner uploads it and is cut off, the
// second one finds it and is cut off at each step of its adoption, the third one comes by; then the first two wake up, in
// both orders. All three cut at different places.
func TestOrphanRace(t *testing.T) {
	for _, at := range []archiver.Step{archiver.Encoded, archiver.Adopting, archiver.Adopted, archiver.Transacting} {
		for _, order := range []string{"first wakes first", "second wakes first"} {
			if real() && order == "first wakes first" {
				continue // each takes two sessions there, one test after the other
			}
			t.Run(string(at)+"/"+order, func(t *testing.T) {
				parallel(t)
				w := newWorld(t)
				records := w.usageRecords(400)
				for i := 0; i < len(records); i += 19 {
					records[i].Value = records[i].Value[:8]
				}
				w.produce(records, 20)
				var owners []*delayed
				for n, step := range []archiver.Step{archiver.Put, at} {
					w.cfg.MaxRecords = []int{30, 70}[n]
					d := newDelayed(step)
					d.running = w.start(fmt.Sprint("owner-", n+1), d.hook, d.cutOff)
					select {
					case <-d.held:
					case err := <-d.running.done:
						t.Fatalf("owner %d ended with %v", n+1, err)
					case <-time.After(60 * time.Second):
						t.Fatalf("owner %d never came to %s", n+1, step)
					}
					owners = append(owners, d)
				}
				w.cfg.MaxRecords = 110
				before := w.list(schemas.UsageEvents)
				if len(before.sums) == 0 {
					t.Fatal("the first owner left nothing")
				}
				w.start("owner-3", nil)
				w.archived(schemas.UsageEvents)
				if order == "second wakes first" {
					owners[0], owners[1] = owners[1], owners[0]
				}
				for _, d := range owners {
					d.release()
					w.produce(w.usageRecords(60), 5)
					w.archived(schemas.UsageEvents)
				}
				after := w.verify(schemas.UsageEvents, nil)
				for key, sum := range before.sums {
					if after.sums[key] != sum {
						t.Errorf("%s was replaced", key)
					}
				}
			})
		}
	}
}

// delayed holds an owner at a step, with its network cut off, until release.
type delayed struct {
	*running
	step       archiver.Step
	link       network
	once       sync.Once
	held, free chan struct{}
}

func newDelayed(step archiver.Step) *delayed {
	return &delayed{step: step, held: make(chan struct{}), free: make(chan struct{})}
}

func (d *delayed) hook(s archiver.Step, _ string, _ int32) error {
	if s == d.step {
		d.once.Do(func() {
			d.link.freeze()
			close(d.held)
			<-d.free
		})
	}
	return nil
}

func (d *delayed) cutOff(p *archiver.Parts) {
	p.Client = append(p.Client, kgo.HeartbeatInterval(time.Second), kgo.Dialer(d.link.dial))
}

func (d *delayed) release() {
	d.link.thaw()
	close(d.free)
}

// network is a way to the broker on which nothing passes while it is frozen.
type network struct{ mu sync.RWMutex }

func (n *network) freeze() { n.mu.Lock() }
func (n *network) thaw()   { n.mu.Unlock() }

func (n *network) dial(ctx context.Context, kind, addr string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, kind, addr)
	return &frozen{conn, n}, err
}

type frozen struct {
	net.Conn
	n *network
}

func (c *frozen) Write(p []byte) (int, error) {
	c.n.mu.RLock()
	defer c.n.mu.RUnlock()
	return c.Conn.Write(p)
}

// TestTwoInstancesAndRebalances: instances come and go while records arrive.
func TestTwoInstancesAndRebalances(t *testing.T) {
	parallel(t)
	w := newWorld(t)
	w.cfg.MaxRecords = 20
	w.start("steady", nil)
	for i := range 4 {
		w.produce(w.usageRecords(300), 10)
		guest := w.start(fmt.Sprint("guest-", i), nil)
		w.produce(w.usageRecords(300), 0)
		guest.stop(t)
	}
	w.archived(schemas.UsageEvents)
	w.verify(schemas.UsageEvents, nil)
}

// TestFencing: a second instance under the same transactional id ends the first.
func TestFencing(t *testing.T) {
	parallel(t)
	w := newWorld(t)
	w.produce(w.usageRecords(100), 0)
	first := w.start("a", nil)
	w.archived(schemas.UsageEvents)
	w.start("a", nil)
	for {
		w.produce(w.usageRecords(50), 0)
		w.archived(schemas.UsageEvents)
		select {
		case err := <-first.done:
			if err == nil {
				t.Fatal("the fenced instance ended without an error")
			}
			w.produce(w.usageRecords(50), 0)
			w.archived(schemas.UsageEvents)
			w.verify(schemas.UsageEvents, nil)
			return
		default:
		}
	}
}
