package archiver

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"databus/pkg/archive"
)

func fill(t *testing.T, s *spool, n int) []archive.Record {
	t.Helper()
	var want []archive.Record
	for i := range n {
		r := archive.Record{Offset: int64(i * 3), Timestamp: int64(1000 - i), Value: bytes.Repeat([]byte{byte(i)}, i%700)}
		switch i % 4 {
		case 1:
			r.Key = []byte{}
		case 2:
			r.Key, r.Value = []byte(fmt.Sprint(i)), nil
		case 3:
			r.Headers = []archive.Header{{Key: "h", Value: []byte("v")}, {Key: ""}, {Key: "e", Value: []byte{}}}
		}
		if err := s.Append(&r); err != nil {
			t.Fatal(err)
		}
		want = append(want, r)
	}
	return want
}

func TestSpoolGivesBackWhatItWasGiven(t *testing.T) {
	path := filepath.Join(t.TempDir(), "spool")
	s, err := newSpool(path)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		want := fill(t, s, 500)
		for range 2 { // it is read more than once
			n := 0
			err := s.Each(func(r *archive.Record) error {
				w := want[n]
				n++
				if r.Offset != w.Offset || r.Timestamp != w.Timestamp || !reflect.DeepEqual(r.Key, w.Key) || !reflect.DeepEqual(r.Value, w.Value) ||
					len(r.Headers) != len(w.Headers) || len(w.Headers) > 0 && !reflect.DeepEqual(r.Headers, w.Headers) {
					t.Fatalf("got %+v, want %+v", r, w)
				}
				return nil
			})
			if err != nil || n != len(want) || s.Records != int64(n) {
				t.Fatalf("%d of %d records, %v", n, len(want), err)
			}
		}
		if err := s.Reset(); err != nil || s.Records != 0 || s.Bytes != 0 {
			t.Fatal(err)
		}
	}
	stop := errors.New("enough")
	fill(t, s, 3)
	if err := s.Each(func(*archive.Record) error { return stop }); err != stop {
		t.Errorf("fn's error came back as %v", err)
	}
	s.Close()
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the closed spool is still there: %v", err)
	}
}

func TestSpoolNoticesABadDisk(t *testing.T) {
	for name, damage := range map[string]func(f *os.File, size int64) error{
		"flipped": func(f *os.File, size int64) error { _, err := f.WriteAt([]byte{0xa5}, size/2); return err },
		"cut":     func(f *os.File, size int64) error { return f.Truncate(size - 5) },
	} {
		s, err := newSpool(filepath.Join(t.TempDir(), "spool"))
		if err != nil {
			t.Fatal(err)
		}
		fill(t, s, 300)
		if err := s.Each(func(*archive.Record) error { return nil }); err != nil {
			t.Fatal(err)
		}
		size, err := s.file.Seek(0, 1)
		if err != nil {
			t.Fatal(err)
		}
		if err := damage(s.file, size); err != nil {
			t.Fatal(err)
		}
		if err := s.Each(func(*archive.Record) error { return nil }); !errors.Is(err, errSpool) {
			t.Errorf("%s: %v", name, err)
		}
		s.Close()
	}
}
