// Package blobtest is the conformance suite of the bucket port: whatever passes Run keeps the promises that package
// blob states.
package blobtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"databus/pkg/blob"
)

// Run runs the suite. open returns an empty bucket, a new one for every call.
func Run(t *testing.T, open func(t *testing.T) blob.Bucket) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, blob.Bucket)
	}{
		{"RoundTrip", roundTrip},
		{"Missing", missing},
		{"CreateOnly", createOnly},
		{"CreateOnlyRace", createOnlyRace},
		{"ReadersSeeWholeObjects", readersSeeWholeObjects},
		{"OddKeys", oddKeys},
		{"RefusedKeys", refusedKeys},
		{"Ranges", ranges},
		{"ReaderAt", readerAt},
		{"Big", big},
		{"BigRace", bigRace},
		{"List", list},
		{"ListManyPages", listManyPages},
		{"Delete", deletes},
		{"FailingBody", failingBody},
		{"EndedContext", endedContext},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, open(t)) })
	}
}

func put(t *testing.T, b blob.Bucket, key, content string) blob.Info {
	t.Helper()
	info, err := b.Put(t.Context(), key, strings.NewReader(content), blob.PutOptions{})
	if err != nil {
		t.Fatalf("Put: %v", err)
	}
	return info
}

func get(t *testing.T, b blob.Bucket, key string) string {
	t.Helper()
	data, _, err := blob.ReadAll(t.Context(), b, key, 1<<30)
	if err != nil {
		t.Fatalf("Get: %v", err)
	}
	return string(data)
}

func keys(t *testing.T, b blob.Bucket, prefix string) []string {
	t.Helper()
	var found []string
	err := b.List(t.Context(), prefix, func(info blob.Info) error {
		found = append(found, info.Key)
		return nil
	})
	if err != nil {
		t.Fatalf("List: %v", err)
	}
	return found
}

func roundTrip(t *testing.T, b blob.Bucket) {
	for _, content := range []string{"first", "", "the second, longer than the first"} {
		stored := put(t, b, "dir/object", content)
		if got := get(t, b, "dir/object"); got != content {
			t.Fatalf("got %q, want %q", got, content)
		}
		head, err := b.Head(t.Context(), "dir/object")
		if err != nil {
			t.Fatal(err)
		}
		body, info, err := b.Get(t.Context(), "dir/object")
		if err != nil {
			t.Fatal(err)
		}
		body.Close()
		for _, i := range []blob.Info{stored, head, info} {
			if i.Key != "dir/object" || i.Size != int64(len(content)) || i.ETag == "" || i.ETag != stored.ETag ||
				strings.Contains(i.ETag, `"`) || i.ModTime.IsZero() {
				t.Errorf("info %+v of an object of %d bytes stored as %+v", i, len(content), stored)
			}
		}
	}
	if b.String() == "" {
		t.Error("the bucket has no name for logs")
	}
	// A body is taken from where it stands.
	body := strings.NewReader("whole")
	body.Seek(3, io.SeekStart)
	if _, err := b.Put(t.Context(), "rest", body, blob.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := get(t, b, "rest"); got != "le" {
		t.Errorf("got %q", got)
	}
}

func missing(t *testing.T, b blob.Bucket) {
	put(t, b, "a/b", "x")
	for _, key := range []string{"no", "no/such/key", "a", "a/b/c"} {
		if _, _, err := b.Get(t.Context(), key); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("Get %q: %v", key, err)
		}
		if _, _, err := b.GetRange(t.Context(), key, 0, 1); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("GetRange %q: %v", key, err)
		}
		if _, err := b.Head(t.Context(), key); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("Head %q: %v", key, err)
		}
	}
}

func createOnly(t *testing.T, b blob.Bucket) {
	create := blob.PutOptions{CreateOnly: true}
	if _, err := b.Put(t.Context(), "one", strings.NewReader("first"), create); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Put(t.Context(), "one", strings.NewReader("second"), create); !errors.Is(err, blob.ErrExists) {
		t.Fatalf("the second Put: %v, want ErrExists", err)
	}
	if got := get(t, b, "one"); got != "first" {
		t.Fatalf("the refused Put left %q", got)
	}
	put(t, b, "one", "third")
	if got := get(t, b, "one"); got != "third" {
		t.Fatalf("a Put without CreateOnly left %q", got)
	}
	if err := b.Delete(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Put(t.Context(), "one", strings.NewReader("fourth"), create); err != nil {
		t.Fatalf("after Delete: %v", err)
	}
}

// createOnlyRace lets 16 writers with bodies of their own meet on one key, several times over.
func createOnlyRace(t *testing.T, b blob.Bucket) {
	for round := range 8 {
		key := fmt.Sprintf("race/%d/key", round)
		var wg sync.WaitGroup
		start := make(chan struct{})
		errs := make([]error, 16)
		for writer := range errs {
			wg.Add(1)
			go func() {
				defer wg.Done()
				body := strings.NewReader(strings.Repeat(string(rune('a'+writer)), 20_000))
				<-start
				_, errs[writer] = b.Put(t.Context(), key, body, blob.PutOptions{CreateOnly: true})
			}()
		}
		close(start)
		wg.Wait()
		winner := -1
		for writer, err := range errs {
			switch {
			case err == nil && winner >= 0:
				t.Fatalf("round %d: writers %d and %d both won", round, winner, writer)
			case err == nil:
				winner = writer
			case !errors.Is(err, blob.ErrExists):
				t.Fatalf("round %d: writer %d: %v", round, writer, err)
			}
		}
		if winner < 0 {
			t.Fatalf("round %d: nobody won", round)
		}
		if got := get(t, b, key); got != strings.Repeat(string(rune('a'+winner)), 20_000) {
			t.Fatalf("round %d: the object is not what the winner %d wrote", round, winner)
		}
	}
	if n := len(keys(t, b, "")); n != 8 {
		t.Errorf("%d objects, want 8: %q", n, keys(t, b, ""))
	}
}

// readersSeeWholeObjects replaces an object while others read it and list it.
func readersSeeWholeObjects(t *testing.T, b blob.Bucket) {
	contents := []string{strings.Repeat("a", 300_000), strings.Repeat("b", 400_000)}
	put(t, b, "o/changing", contents[0])
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				data, _, err := blob.ReadAll(t.Context(), b, "o/changing", 1<<20)
				if err != nil || !slices.Contains(contents, string(data)) {
					t.Errorf("a reader met %d bytes that nobody wrote, error %v", len(data), err)
					return
				}
				// versitygw sometimes lists the file of a write that is under way. Nobody gives an object such a name.
				found := slices.DeleteFunc(keys(t, b, ""), func(key string) bool { return strings.Contains(key, ".sgwtmp.") })
				if len(found) != 1 {
					t.Errorf("List showed %q", found)
					return
				}
			}
		})
	}
	for i := range 20 {
		put(t, b, "o/changing", contents[i%2])
	}
	close(done)
	wg.Wait()
}

func oddKeys(t *testing.T, b blob.Bucket) {
	odd := []string{
		"databus.records/dt=2026-01-02/hr=03/databus.records+7+00000000000000000042.parquet",
		"a b/c d", "100%/%2F%2f", "plus+and&amp", "q?x=1#frag", "sémantique/日本語/🚲", "tilde~(x)!*'", `quo"te`,
		"comma,semi;colon:at@", "<tag>", "trailing.", "a..b", "-dash", strings.Repeat("long/", 100) + "x",
		strings.Repeat("n", 255),
	}
	for _, key := range odd {
		put(t, b, key, "content of "+key)
	}
	for _, key := range odd {
		if got := get(t, b, key); got != "content of "+key {
			t.Errorf("%q holds %q", key, got)
		}
		if got := keys(t, b, key); !slices.Equal(got, []string{key}) {
			t.Errorf("List(%q) = %q", key, got)
		}
	}
	slices.Sort(odd)
	if got := keys(t, b, ""); !slices.Equal(got, odd) {
		t.Errorf("List:\n got %q\nwant %q", got, odd)
	}
}

func refusedKeys(t *testing.T, b blob.Bucket) {
	for _, key := range []string{
		"", "/", "/absolute", "trailing/", "double//slash", ".", "..", "../up", "a/../b", "a/./b", ".hidden", "a/.hidden",
		"back\\slash", "nul\x00", "line\nbreak", "\xff\xfe", strings.Repeat("k/", 450) + "k", strings.Repeat("n", 256),
	} {
		if _, err := b.Put(t.Context(), key, strings.NewReader("x"), blob.PutOptions{}); !errors.Is(err, blob.ErrKey) {
			t.Errorf("Put %q: %v, want ErrKey", key, err)
		}
		if _, _, err := b.Get(t.Context(), key); !errors.Is(err, blob.ErrKey) {
			t.Errorf("Get %q: %v, want ErrKey", key, err)
		}
		if _, err := b.Head(t.Context(), key); !errors.Is(err, blob.ErrKey) {
			t.Errorf("Head %q: %v, want ErrKey", key, err)
		}
		if err := b.Delete(t.Context(), key); !errors.Is(err, blob.ErrKey) {
			t.Errorf("Delete %q: %v, want ErrKey", key, err)
		}
	}
	if got := keys(t, b, ""); len(got) != 0 {
		t.Errorf("refused keys left %q", got)
	}
}

func ranges(t *testing.T, b blob.Bucket) {
	put(t, b, "r", "0123456789")
	put(t, b, "empty", "")
	for _, test := range []struct {
		key            string
		offset, length int64
		want           string
		err            error
	}{
		{"r", 0, 1, "0", nil}, {"r", 3, 4, "3456", nil}, {"r", 9, 1, "9", nil}, {"r", 4, -1, "456789", nil},
		{"r", 8, 100, "89", nil}, {"r", 0, 10, "0123456789", nil}, {"r", 0, -1, "0123456789", nil},
		{"r", 10, 1, "", blob.ErrRange}, {"r", 99, -1, "", blob.ErrRange}, {"r", -1, 2, "", blob.ErrRange},
		{"r", 0, 0, "", blob.ErrRange}, {"r", 0, -2, "", blob.ErrRange}, {"empty", 0, 1, "", blob.ErrRange},
	} {
		body, info, err := b.GetRange(t.Context(), test.key, test.offset, test.length)
		if test.err != nil {
			if !errors.Is(err, test.err) {
				t.Errorf("%s [%d, %d): %v, want %v", test.key, test.offset, test.length, err, test.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s [%d, %d): %v", test.key, test.offset, test.length, err)
			continue
		}
		got, err := io.ReadAll(body)
		body.Close()
		if err != nil || string(got) != test.want || info.Size != 10 || info.Key != test.key || info.ETag == "" {
			t.Errorf("%s [%d, %d): got %q, %+v, %v", test.key, test.offset, test.length, got, info, err)
		}
	}
}

func readerAt(t *testing.T, b blob.Bucket) {
	info := put(t, b, "at", "0123456789")
	r := blob.NewReaderAt(t.Context(), b, info)
	p := make([]byte, 4)
	if n, err := r.ReadAt(p, 2); n != 4 || err != nil || string(p) != "2345" {
		t.Errorf("%d, %v, %q", n, err, p)
	}
	if n, err := r.ReadAt(p, 8); n != 2 || err != io.EOF || string(p[:n]) != "89" {
		t.Errorf("across the end: %d, %v, %q", n, err, p[:n])
	}
	if n, err := r.ReadAt(p, 10); n != 0 || err != io.EOF {
		t.Errorf("at the end: %d, %v", n, err)
	}
	put(t, b, "at", "9876543210")
	if _, err := r.ReadAt(p, 0); err == nil {
		t.Error("reading went on in an object that was replaced")
	}
}

func big(t *testing.T, b blob.Bucket) {
	content := make([]byte, 20<<20)
	rng := rand.NewChaCha8([32]byte{1})
	rng.Read(content)
	info, err := b.Put(t.Context(), "big", bytes.NewReader(content), blob.PutOptions{CreateOnly: true})
	if err != nil || info.Size != int64(len(content)) {
		t.Fatalf("%+v, %v", info, err)
	}
	if get(t, b, "big") != string(content) {
		t.Fatal("the object differs from what was put")
	}
	body, _, err := b.GetRange(t.Context(), "big", 10<<20+7, 5<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	part, err := io.ReadAll(body)
	if err != nil || !bytes.Equal(part, content[10<<20+7:15<<20+7]) {
		t.Fatalf("a range of %d bytes differs, error %v", len(part), err)
	}
}

// bigRace lets writers of large objects meet on one key, while others put a small one there.
func bigRace(t *testing.T, b blob.Bucket) {
	for round := range 2 {
		key := fmt.Sprintf("race/big/%d", round)
		var wg sync.WaitGroup
		errs := make([]error, 5)
		for writer := range errs {
			wg.Go(func() {
				size := 6_000_000
				if writer == 0 {
					size = 1000
				}
				body := bytes.NewReader(bytes.Repeat([]byte{'a' + byte(writer)}, size))
				_, errs[writer] = b.Put(t.Context(), key, body, blob.PutOptions{CreateOnly: true})
			})
		}
		wg.Wait()
		winner := -1
		for writer, err := range errs {
			switch {
			case err == nil && winner < 0:
				winner = writer
			case err == nil:
				t.Fatalf("round %d: writers %d and %d both won", round, winner, writer)
			case !errors.Is(err, blob.ErrExists):
				t.Fatalf("round %d: writer %d: %v", round, writer, err)
			}
		}
		if winner < 0 {
			t.Fatalf("round %d: nobody won", round)
		}
		content := get(t, b, key)
		if want := strings.Count(content, string(rune('a'+winner))); want != len(content) || (len(content) != 6_000_000) != (winner == 0) {
			t.Fatalf("round %d: the object has %d bytes, %d of them the winner's", round, len(content), want)
		}
		if got := keys(t, b, "race/"); len(got) != round+1 {
			t.Fatalf("round %d: List shows %q", round, got)
		}
	}
}

func list(t *testing.T, b blob.Bucket) {
	want := []string{
		"A", "a+b/1", "a-b", "a.b", "a/b", "a/b.c", "a/c/1", "a/c/10", "a/c/2", "a0", "b/dt=2026-01-01/hr=00/x",
		"b/dt=2026-01-01/hr=01/x", "b/dt=2026-01-02/hr=00/x", "bb", "é",
	}
	shuffled := slices.Clone(want)
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(want), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	for _, key := range shuffled {
		put(t, b, key, key)
	}
	for _, prefix := range []string{"", "a", "a/", "a/c", "a/c/", "a/c/1", "b/dt=2026-01-01/", "b/dt=", "zz", "A", "b/d", "a/b"} {
		var expected []string
		for _, key := range want {
			if strings.HasPrefix(key, prefix) {
				expected = append(expected, key)
			}
		}
		if got := keys(t, b, prefix); !slices.Equal(got, expected) {
			t.Errorf("List(%q):\n got %q\nwant %q", prefix, got, expected)
		}
	}
	err := b.List(t.Context(), "a/", func(info blob.Info) error {
		if info.Size != int64(len(info.Key)) || info.ETag == "" || info.ModTime.IsZero() {
			t.Errorf("List showed %+v", info)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	stop := errors.New("stop here")
	calls := 0
	if err := b.List(t.Context(), "", func(blob.Info) error { calls++; return stop }); err != stop || calls != 1 {
		t.Errorf("fn's error gave %v after %d calls", err, calls)
	}
}

// listManyPages has more objects than one answer of S3 holds.
func listManyPages(t *testing.T, b blob.Bucket) {
	var want []string
	for i := range 1203 {
		want = append(want, fmt.Sprintf("many/%02d/%04d", i/100, i))
	}
	var wg sync.WaitGroup
	for part := range 4 {
		wg.Go(func() {
			for i := part; i < len(want); i += 4 {
				if _, err := b.Put(t.Context(), want[i], strings.NewReader(""), blob.PutOptions{}); err != nil {
					t.Errorf("Put: %v", err)
				}
			}
		})
	}
	wg.Wait()
	if got := keys(t, b, "many/"); !slices.Equal(got, want) {
		t.Errorf("List showed %d of %d keys, or in another order", len(got), len(want))
	}
}

func deletes(t *testing.T, b blob.Bucket) {
	put(t, b, "d/1", "x")
	put(t, b, "d/2", "x")
	for range 2 { // the second time there is nothing to delete
		if err := b.Delete(t.Context(), "d/1"); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Delete(t.Context(), "no/such/thing"); err != nil {
		t.Errorf("deleting what is not there: %v", err)
	}
	if err := b.Delete(t.Context(), "d"); err != nil {
		t.Errorf("deleting a mere prefix: %v", err)
	}
	if got := keys(t, b, ""); !slices.Equal(got, []string{"d/2"}) {
		t.Errorf("left: %q", got)
	}
}

var errBroken = errors.New("the source is broken")

// brokenBody ends in an error.
type brokenBody struct{ left int }

func (b *brokenBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, errBroken
	}
	n := min(len(p), b.left, 4096)
	b.left -= n
	return n, nil
}

// failingBody: whatever has been read of a body, even all of it, nothing is published if an error is what it ends in. Sizes are
// those of one request, and of two full parts.
func failingBody(t *testing.T, b blob.Bucket) {
	for _, size := range []int{0, 500_000, 10 << 20, 12_000_000} {
		if _, err := b.Put(t.Context(), "half", &brokenBody{size}, blob.PutOptions{CreateOnly: true}); !errors.Is(err, errBroken) {
			t.Fatalf("Put of a body that breaks after %d bytes: %v", size, err)
		}
		if got := keys(t, b, ""); len(got) != 0 {
			t.Fatalf("an object that broke after %d bytes is visible: %q", size, got)
		}
		if _, err := b.Put(t.Context(), "half", strings.NewReader("whole"), blob.PutOptions{CreateOnly: true}); err != nil {
			t.Fatalf("after the failure: %v", err)
		}
		if err := b.Delete(t.Context(), "half"); err != nil {
			t.Fatal(err)
		}
	}
}

func endedContext(t *testing.T, b blob.Bucket) {
	put(t, b, "x", "content")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Put(ctx, "y", strings.NewReader("y"), blob.PutOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Put: %v", err)
	}
	if _, _, err := b.Get(ctx, "x"); !errors.Is(err, context.Canceled) {
		t.Errorf("Get: %v", err)
	}
	if err := b.List(ctx, "", func(blob.Info) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("List: %v", err)
	}
	if err := b.Delete(ctx, "x"); !errors.Is(err, context.Canceled) {
		t.Errorf("Delete: %v", err)
	}
	if got := keys(t, b, ""); !slices.Equal(got, []string{"x"}) {
		t.Errorf("left: %q", got)
	}
}
