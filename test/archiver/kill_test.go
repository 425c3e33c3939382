//go:build servers

package archiver

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"databus/pkg/archive"
	"databus/services/archiver"
	"databus/test/archiver/verify"
	"databus/test/crash"
	"databus/test/prove"
)

// TestProveKills kills two archivers again and again, on real Kafka and a real S3 server, under load: at random moments
// and at each step of a cut, down for a moment or until the other has taken over. Then who only lists the bucket finds every
// offset once, and all objects come out the same in an empty bucket. Half of the kills are of archivers that sort the rows.
func TestProveKills(t *testing.T) {
	t.Run("ByOffset", func(t *testing.T) { kills(t) })
	t.Run("Sorted", func(t *testing.T) { kills(t, topic+"=account") })
}

func kills(t *testing.T, sortBy ...string) {
	w := realKafka(t)
	w.sortBy = sortBy
	d := &director{w: w, rng: rand.New(rand.NewPCG(6, uint64(6+len(sortBy)))), all: []*instance{w.newInstance("a", 35), w.newInstance("b", 52)}}
	stop := w.load(1, 200)
	for _, i := range d.all {
		if err := i.start(); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	for n, scene := range d.plan(prove.Size(15, 150), prove.Size(1, 8), prove.Size(1, 8)) {
		if err := scene(); err != nil {
			t.Fatalf("scene %d, after %d kills: %v", n+1, d.kills, err)
		}
	}
	t.Logf("%d kills in %v", d.kills, time.Since(began).Round(time.Second))
	stop()
	w.archived(2*time.Minute, func() string { return d.all[0].Tail() + "\n" + d.all[1].Tail() })
	for _, i := range d.all {
		if err := i.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	w.sorted(w.verify("kills"))
	empty := w.newBucket()
	sum := w.backfill(empty)
	figures.mu.Lock()
	figures.replays += sum.Again + len(sum.Differing)
	figures.differed += len(sum.Differing)
	figures.mu.Unlock()
	t.Logf("made again: %d objects, %d differ", sum.Again, len(sum.Differing))
	if len(sum.Differing) > 0 || sum.New > 0 || sum.Gone > 0 || sum.Again < prove.Size(25, 100) {
		t.Errorf("in an empty bucket: %+v", sum)
	}
	w.verifyIn(empty, "replays")
}

// sorted makes sure that the archivers sorted the rows, or did not, as they were told.
func (w *world) sorted(r *verify.Report) {
	w.t.Helper()
	by := ""
	for _, s := range w.sortBy {
		_, by, _ = strings.Cut(s, "=")
	}
	bucket := w.open(w.bucket)
	for key := range r.Files {
		object, err := archive.Open(w.t.Context(), bucket, key)
		if err != nil {
			w.t.Fatal(err)
		}
		if f := object.Footer(); f.SortedBy != by {
			w.t.Errorf("%s is sorted by %q, want %q", key, f.SortedBy, by)
		}
		object.Close()
	}
}

func (w *world) verify(what string) *verify.Report {
	w.t.Helper()
	return w.verifyIn(w.bucket, what)
}

func (w *world) verifyIn(bucket, what string) *verify.Report {
	w.t.Helper()
	r, err := verify.Verify(w.t.Context(), w.options(bucket))
	if err != nil {
		w.t.Fatalf("%s: %v", what, err)
	}
	figures.add(r)
	w.t.Logf("%s: %v", what, r)
	if err := r.Err(); err != nil {
		w.t.Errorf("%s: %v", what, err)
	}
	return r
}

// director starts and kills two instances.
type director struct {
	w     *world
	rng   *rand.Rand
	all   []*instance
	kills int
}

type scene func() error

// plan is the order of n kills at least: each step times, adoption adoptions times, the rest at random.
func (d *director) plan(n, times, adoptions int) []scene {
	var all []scene
	for range times {
		for _, step := range []archiver.Step{archiver.Encoded, archiver.Put, archiver.Transacting, archiver.Committed} {
			all = append(all, func() error { return d.inside(step) })
			n -= 2
		}
	}
	for range adoptions {
		all = append(all, d.adoption)
		n -= 5
	}
	for range n {
		all = append(all, d.atRandom)
	}
	d.rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

func (d *director) killed(point string) {
	d.kills++
	figures.kill(point)
}

// kill kills an instance that runs.
func (d *director) kill(i *instance) error {
	if err := i.Kill9(); err != nil {
		return err
	}
	d.killed("")
	return nil
}

// down waits for a moment, or until the group has given the instance's partitions to the other.
func (d *director) down() {
	if d.rng.IntN(3) == 0 {
		time.Sleep(session + time.Duration(d.rng.IntN(800))*time.Millisecond)
	}
}

func (d *director) atRandom() error {
	i := d.all[d.rng.IntN(2)]
	time.Sleep(time.Duration(d.rng.IntN(900)) * time.Millisecond)
	if err := d.kill(i); err != nil {
		return err
	}
	d.down()
	return i.start()
}

// inside lets an instance kill itself at a step.
func (d *director) inside(step archiver.Step) error {
	i := d.all[d.rng.IntN(2)]
	if err := d.kill(i); err != nil {
		return err
	}
	if err := d.crash(i, step, d.rng.IntN(3)); err != nil {
		return err
	}
	d.down()
	return i.start()
}

func (d *director) crash(i *instance, step archiver.Step, after int) error {
	if err := i.crash(crash.Point{Name: string(step), After: after}); err != nil {
		return err
	}
	d.killed(string(step))
	return nil
}

// adoption leaves an object without a commit behind; the other instance, which cuts elsewhere, dies while it adopts it,
// and dies again when it has.
func (d *director) adoption() error {
	n := d.rng.IntN(2)
	first, heir := d.all[n], d.all[1-n]
	for _, i := range d.all {
		if err := d.kill(i); err != nil {
			return err
		}
	}
	if err := d.crash(first, archiver.Put, d.rng.IntN(3)); err != nil {
		return err
	}
	for _, step := range []archiver.Step{archiver.Adopting, archiver.Adopted} {
		if err := d.crash(heir, step, 0); err != nil {
			return err
		}
	}
	for _, i := range d.all {
		if err := i.start(); err != nil {
			return err
		}
	}
	return nil
}
