package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/archive"
	"databus/pkg/blob"
	"databus/pkg/history"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

// tampering is an archive that is damaged in a copy of its bucket, and in its manifest, which is repaired afterwards.
type tampering struct {
	*archived
	t     *testing.T
	dir   string
	files []lsLine // of the partition with most files
	p     int32
}

func (a *archived) tamper(t *testing.T) *tampering {
	t.Helper()
	x := &tampering{archived: a, t: t, dir: filepath.Join(t.TempDir(), "copy")}
	if err := os.CopyFS(x.dir, os.DirFS(a.dir)); err != nil {
		t.Fatal(err)
	}
	by := map[int32][]lsLine{}
	for _, l := range a.ls(t, a.dir, "--files") {
		by[l.Partition] = append(by[l.Partition], l)
	}
	for p, files := range by {
		if len(files) > len(x.files) {
			x.files, x.p = files, p
		}
	}
	if len(x.files) < 4 {
		t.Fatalf("partition %d has only %d files", x.p, len(x.files))
	}
	return x
}

func (x *tampering) must(err error) {
	x.t.Helper()
	if err != nil {
		x.t.Fatal(err)
	}
}

func (x *tampering) path(i int) string { return filepath.Join(x.dir, x.files[i].Object) }

func (x *tampering) remove(i int) { x.t.Helper(); x.must(os.Remove(x.path(i))) }

func (x *tampering) rename(i int, key string) {
	x.t.Helper()
	to := filepath.Join(x.dir, key)
	x.must(os.MkdirAll(filepath.Dir(to), 0o755))
	x.must(os.Rename(x.path(i), to))
}

// announce changes the event of a file, nil removes it; the test's end brings it back.
func (x *tampering) announce(i int, change func(*event.ArchiveFile)) {
	x.t.Helper()
	g := Globals{Brokers: x.Broker.Seeds(), Registry: x.Registry.URL()}
	events, err := g.manifest(x.t.Context(), schemas.UsageEvents)
	x.must(err)
	cl := x.client(x.t)
	serde := codec.For[event.ArchiveFile](codec.New(codec.NewRegistry(x.Registry.URL()), codec.Options{}), schemas.ArchiveFiles)
	key := []byte(fmt.Sprintf("%s/%d/%d", schemas.UsageEvents, x.p, x.files[i].First))
	for _, e := range events {
		if e.Object != x.files[i].Object {
			continue
		}
		old, err := serde.Encode(x.t.Context(), &e)
		x.must(err)
		rec := &kgo.Record{Topic: schemas.ArchiveFiles, Key: key}
		if change != nil {
			change(&e)
			rec.Value, err = serde.Encode(x.t.Context(), &e)
			x.must(err)
		}
		x.must(cl.ProduceSync(x.t.Context(), rec).FirstErr())
		x.t.Cleanup(func() {
			x.must(cl.ProduceSync(context.WithoutCancel(x.t.Context()), &kgo.Record{Topic: schemas.ArchiveFiles, Key: key, Value: old}).FirstErr())
		})
		return
	}
	x.t.Fatalf("%s is not in the manifest", x.files[i].Object)
}

// rewrite writes a file anew, after change has been at each of its rows: false leaves it out. It returns the change of
// its event that makes the manifest agree.
func (x *tampering) rewrite(i int, key string, first int64, change func(*archive.Record) bool) func(*event.ArchiveFile) {
	x.t.Helper()
	bucket, err := blob.OpenFileSystem(x.dir)
	x.must(err)
	r, err := archive.Open(x.t.Context(), bucket, x.files[i].Object)
	x.must(err)
	f := r.Footer()
	var b bytes.Buffer
	w, err := archive.NewWriter(&b, r.Schema(), archive.Range{Topic: f.Topic, Partition: f.Partition, First: first, SchemaID: f.SchemaID})
	x.must(err)
	rows, last := int64(0), int64(-1)
	for {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		x.must(err)
		if rec.Offset < first || !change(&rec) {
			continue
		}
		x.must(w.Append(&rec))
		rows, last = rows+1, rec.Offset
	}
	for range f.DeadLetters { // somewhere behind
		last++
		x.must(w.DeadLetter(last))
	}
	is, err := w.Close(max(f.Next, last+1))
	x.must(err)
	_, err = bucket.Put(x.t.Context(), key, bytes.NewReader(b.Bytes()), blob.PutOptions{})
	x.must(err)
	sum := sha256.Sum256(b.Bytes())
	return func(e *event.ArchiveFile) {
		e.Rows, e.Bytes, e.Sha256, e.Next = is.Rows, int64(b.Len()), sum[:], is.Next
	}
}

func (x *tampering) verify(args ...string) result {
	x.t.Helper()
	return x.run(x.t, append([]string{"archive", "verify", "--bucket-url", "file://" + x.dir, "--patience", "3s"}, args...)...)
}

// finds wants these problems and no others.
func (x *tampering) finds(args []string, problems ...string) {
	x.t.Helper()
	r := x.verify(args...)
	if r.code != 1 || strings.Count(r.out, "problem: ") != len(problems) || !strings.Contains(r.out, fmt.Sprintf(", %s\n", plural(int64(len(problems)), "problem"))) {
		x.t.Errorf("exit code %d, want %d problems:\n%s%s", r.code, len(problems), r.out, r.err)
	}
	for _, p := range problems {
		if !strings.Contains(r.out, "problem: "+schemas.UsageEvents+p) {
			x.t.Errorf("it does not say %q:\n%s", p, r.out)
		}
	}
}

func TestArchiveVerify(t *testing.T) {
	a := newArchived(t, 900)
	whole := func(t *testing.T) {
		t.Helper()
		for _, args := range [][]string{nil, {"--deep"}, {"--bucket-only"}, {"--deep", "--bucket-only"}, {schemas.UsageEvents, "--workers", "1"}} {
			r := a.run(t, a.on(append([]string{"verify"}, args...)...)...)
			if r.code != 0 || !strings.Contains(r.out, " 818 rows, 0 problems\n") {
				t.Errorf("%v: %+v", args, r)
			}
		}
	}
	whole(t)

	t.Run("missing object", func(t *testing.T) {
		x := a.tamper(t)
		x.remove(1)
		at := fmt.Sprintf("/%d@%d", x.p, x.files[1].First)
		x.finds(nil, at+" ("+x.files[1].Object+"): the manifest names this object", fmt.Sprintf("%s: offsets %d to %d are in no object", at, x.files[1].First, x.files[2].First-1))
		x.finds([]string{"--bucket-only"}, at+": offsets")
		x.announce(1, nil)
		x.finds(nil, at+": offsets")
	})
	t.Run("missing first object", func(t *testing.T) {
		x := a.tamper(t)
		x.remove(0)
		x.announce(0, nil)
		x.finds(nil, fmt.Sprintf("/%d@%d: %d records of the topic below offset %d are in no object", x.p, x.read(t, schemas.UsageEvents)[x.p][0].Offset, x.files[0].Rows+x.files[0].DeadLetters, x.files[1].First))
	})
	t.Run("missing last object", func(t *testing.T) {
		x := a.tamper(t)
		last := len(x.files) - 1
		x.remove(last)
		x.announce(last, nil)
		x.finds(nil, fmt.Sprintf("/%d@%d: the archiver has committed offset %d", x.p, x.files[last].First, x.files[last].Next))
	})
	t.Run("object without event", func(t *testing.T) {
		x := a.tamper(t)
		x.announce(2, nil)
		x.finds(nil, fmt.Sprintf("/%d@%d (%s): the bucket has this object, and the manifest does not name it", x.p, x.files[2].First, x.files[2].Object))
	})
	t.Run("overlap", func(t *testing.T) {
		x := a.tamper(t)
		first := x.files[1].First + 1
		key := archive.ObjectName("archive", schemas.UsageEvents, x.p, first, 0)
		x.rewrite(1, key, first, func(*archive.Record) bool { return true })
		at := fmt.Sprintf("/%d@%d (%s): ", x.p, first, key)
		x.finds([]string{"--bucket-only"}, at+"it begins inside the range", fmt.Sprintf("/%d@", x.p))
		r := x.verify()
		if r.code != 1 || !strings.Contains(r.out, at+"it begins inside the range") || !strings.Contains(r.out, at+"the bucket has this object, and the manifest does not name it") {
			t.Error(r)
		}
	})
	t.Run("flipped byte", func(t *testing.T) {
		for _, args := range [][]string{nil, {"--deep"}} {
			x := a.tamper(t)
			b, err := os.ReadFile(x.path(1))
			x.must(err)
			b[len(b)/4] ^= 0x10
			x.must(os.WriteFile(x.path(1), b, 0o644))
			r := x.verify(args...)
			if r.code != 1 || !strings.Contains(r.out, fmt.Sprintf("problem: %s/%d@%d (%s): it has %d bytes with SHA-256 ", schemas.UsageEvents, x.p, x.files[1].First, x.files[1].Object, len(b))) {
				t.Errorf("%v: %+v", args, r)
			}
		}
	})
	t.Run("cut off", func(t *testing.T) {
		x := a.tamper(t)
		x.must(os.Truncate(x.path(1), x.files[1].Bytes-10))
		at := fmt.Sprintf("/%d@%d (%s): ", x.p, x.files[1].First, x.files[1].Object)
		x.finds(nil, at+"it has ", at+"it cannot be read")
	})
	t.Run("wrong name", func(t *testing.T) {
		x := a.tamper(t)
		wrong := archive.ObjectName("archive", schemas.UsageEvents, x.p, x.files[1].First+1, 0)
		x.rename(1, wrong)
		r := x.verify("--bucket-only")
		if r.code != 1 || !strings.Contains(r.out, fmt.Sprintf("(%s): its name is wrong: its footer says topic usage.events, partition %d, first offset %d", wrong, x.p, x.files[1].First)) {
			t.Error(r)
		}
	})
	t.Run("wrong hour", func(t *testing.T) {
		x := a.tamper(t)
		for i, f := range x.files {
			if f.DeadLetters == 0 {
				x.rename(i, archive.ObjectName("archive", schemas.UsageEvents, x.p, f.First, 0))
				x.finds([]string{"--bucket-only"}, fmt.Sprintf("/%d@", x.p))
				return
			}
		}
		t.Error("each file has dead letters")
	})
	t.Run("stray", func(t *testing.T) {
		x := a.tamper(t)
		x.rename(1, "archive/usage.events/old.parquet")
		x.finds([]string{"--bucket-only"}, " (archive/usage.events/old.parquet): it is not named like an object", fmt.Sprintf("/%d@%d: offsets", x.p, x.files[1].First))
		x.must(os.WriteFile(filepath.Join(x.dir, "archive/usage.events/_layout.json"), []byte("{}"), 0o644))
		x.finds([]string{"--bucket-only"}, " (archive/usage.events/old.parquet)", "/")
	})
	t.Run("lost rows", func(t *testing.T) {
		x := a.tamper(t)
		n := 0
		agree := x.rewrite(1, x.files[1].Object, x.files[1].First, func(*archive.Record) bool { n++; return n != 3 })
		x.announce(1, agree)
		what := fmt.Sprintf("/%d@%d (%s): the topic has %d committed records", x.p, x.files[1].First, x.files[1].Object, x.files[1].Rows+x.files[1].DeadLetters)
		x.finds(nil, what)
		x.finds([]string{"--deep"}, what)
		if r := x.verify("--bucket-only"); r.code != 0 {
			t.Errorf("the bucket alone knows of lost rows: %+v", r)
		}
	})
	t.Run("row of another offset", func(t *testing.T) {
		x := a.tamper(t)
		i, from, to := x.hole()
		agree := x.rewrite(i, x.files[i].Object, x.files[i].First, func(r *archive.Record) bool {
			if r.Offset == from {
				r.Offset = to
			}
			return true
		})
		x.announce(i, agree)
		x.finds([]string{"--deep"}, fmt.Sprintf("/%d@%d (%s): the row is no committed record of the topic", x.p, to, x.files[i].Object),
			fmt.Sprintf("/%d@%d (%s): %d rows and %d dead letters of the range are right in sum, not one by one", x.p, x.files[i].First, x.files[i].Object, x.files[i].Rows, x.files[i].DeadLetters))
	})
	t.Run("let go by age", func(t *testing.T) {
		x := a.tamper(t)
		mark := func(i int, text string) string {
			key := archive.MarkName("archive", schemas.UsageEvents, x.p, x.files[i].First)
			x.must(os.WriteFile(filepath.Join(x.dir, key), []byte(text), 0o644))
			return key
		}
		clean := func(want string) {
			t.Helper()
			if r := x.verify(); r.code != 0 || !strings.Contains(r.out, want) || !strings.Contains(r.out, ", 0 problems\n") {
				t.Errorf("it does not say %q: %+v", want, r)
			}
		}
		for i := range 2 {
			x.announce(i, nil)
			mark(i, archive.Mark{Object: x.files[i].Object, Next: x.files[i].Next}.String())
		}
		clean(fmt.Sprintf(", retention let go what is below %d (2 files still there)", x.files[1].Next))
		x.remove(0)
		clean(fmt.Sprintf(", retention let go what is below %d (1 file still there)", x.files[1].Next))
		x.remove(1)
		clean(fmt.Sprintf(", retention let go what is below %d, ", x.files[1].Next))
		// What is missing behind the mark is a gap, whether or not the topic has it.
		x.remove(2)
		x.announce(2, nil)
		gap := fmt.Sprintf("/%d@%d: offsets %d to %d are in no object: the archive's retention let go", x.p, x.files[2].First, x.files[2].First, x.files[3].First-1)
		x.finds(nil, gap)
		x.finds([]string{"--bucket-only"}, gap)
		key := mark(1, "nothing\n")
		x.finds([]string{"--bucket-only"}, fmt.Sprintf("/%d: reading the mark %s: not a valid archive object", x.p, key))
	})
	t.Run("event that disagrees", func(t *testing.T) {
		x := a.tamper(t)
		x.announce(1, func(e *event.ArchiveFile) { e.SchemaID++ })
		x.finds(nil, fmt.Sprintf("/%d@%d (%s): its footer says schema id", x.p, x.files[1].First, x.files[1].Object))
	})
	whole(t)
}

// hole finds a row that is followed by an offset without one, inside a file.
func (x *tampering) hole() (file int, row, free int64) {
	x.t.Helper()
	bucket, err := blob.OpenFileSystem(x.dir)
	x.must(err)
	committed := map[int64]bool{}
	for _, r := range x.read(x.t, schemas.UsageEvents)[x.p] {
		committed[r.Offset] = true
	}
	for i, f := range x.files {
		last := int64(-1)
		found := false
		err := history.Scan(x.t.Context(), bucket, []history.Object{{Name: archive.Name{First: f.First}, Key: f.Object}}, history.Bounds{}, func(_ *archive.Footer, rec *archive.Record) error {
			if last >= 0 && !found && rec.Offset > last+1 && !committed[last+1] {
				found, row, free = true, last, last+1
			}
			last = rec.Offset
			return nil
		})
		x.must(err)
		if found {
			return i, row, free
		}
	}
	x.t.Fatal("there is no offset between two rows that is no record's")
	return 0, 0, 0
}
