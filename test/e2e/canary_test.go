package e2e

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/identity"
	"databus/pkg/seal"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
	"databus/services/ingest/client"
	"databus/test/prove"
)

const canaryAccount = "canary-account"

// A subject is a record with a canary in each of its sensitive fields.
type subject struct {
	client.Record
	canaries []string
}

func newSubject() subject {
	word := func() string { return "q" + strings.ToLower(rand.Text()) } // 27 letters and digits
	digits := func(n int) string {
		b := make([]byte, n)
		rand.Read(b) // never fails
		for i := range b {
			b[i] = '0' + b[i]%10
		}
		return string(b)
	}
	s := subject{canaries: []string{word(), word(), "151" + digits(8), word(), word(), word(), word(), digits(14), word(), word(), word()}}
	c := s.canaries
	s.RecordID, s.RequestID = c[0], "canaryrequest-"+rand.Text()
	s.Fields = map[string]string{
		"email": c[1] + "@mail.example", "phone": "+49" + c[2], "given_name": c[3], "surname": c[4], "address_1": c[5], "city": c[6],
		"postcode": "10115", "national_id": c[7], "birth_date": "1980-02-03", "note": "my name is " + c[8], "maid": c[9], "social": c[10],
	}
	return s
}

// canaryForms are the forms in which a canary is looked for: as it is, in upper case, in base64 at its three alignments, in
// hex and in UTF-16.
func canaryForms(subjects []subject) map[string]string {
	forms := map[string]string{}
	for _, s := range subjects {
		for _, c := range s.canaries {
			add := func(form string) { forms[form] = c }
			add(c)
			add(strings.ToUpper(c))
			add(hex.EncodeToString([]byte(c)))
			for shift := range 3 {
				padded := base64.RawStdEncoding.EncodeToString(append(make([]byte, shift), c...))
				add(padded[2 : len(padded)-2]) // without what the neighbours decide
			}
			var wide []byte
			for _, u := range utf16.Encode([]rune(c)) {
				wide = append(wide, byte(u>>8), byte(u))
			}
			add(string(wide))
		}
	}
	return forms
}

// finder looks for many strings at once: by their first two bytes, as that is quick, by their first eight, then as a whole.
type finder struct {
	first   [1 << 16]bool
	byStart map[[8]byte][]string
	forms   map[string]string
	found   map[string]string // canary: where
	bytes   int64
}

func newFinder(subjects []subject) *finder {
	f := &finder{byStart: map[[8]byte][]string{}, forms: canaryForms(subjects), found: map[string]string{}}
	for form := range f.forms {
		f.first[binary.BigEndian.Uint16([]byte(form))] = true
		f.byStart[[8]byte([]byte(form))] = append(f.byStart[[8]byte([]byte(form))], form)
	}
	return f
}

func (f *finder) look(where string, b []byte) {
	f.bytes += int64(len(b))
	for i := 0; i+8 <= len(b); i++ {
		if !f.first[binary.BigEndian.Uint16(b[i:])] {
			continue
		}
		for _, form := range f.byStart[[8]byte(b[i:i+8])] {
			if bytes.HasPrefix(b[i:], []byte(form)) {
				f.found[f.forms[form]] = fmt.Sprintf("%s, byte %d", where, i)
			}
		}
	}
}

// tree looks into every file of a directory but the secrets, and says in how many the control was seen.
func (f *finder) tree(t testing.TB, dir string, control []byte) (files, seen int) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) { // compaction removes files meanwhile
			return nil
		}
		if err != nil || !d.Type().IsRegular() || d.Name() == "keys.json" {
			return err
		}
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		files++
		if bytes.Contains(b, control) {
			seen++
		}
		f.look(path, b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files, seen
}

func TestFinder(t *testing.T) {
	s := newSubject()
	for form, canary := range canaryForms([]subject{s}) {
		f := newFinder([]subject{s})
		b := make([]byte, 64)
		rand.Read(b)
		f.look("here", append(append(b, form...), b...))
		if f.found[canary] != "here, byte 64" || len(f.found) != 1 {
			t.Errorf("%q at byte 64: found %v", form, f.found)
		}
	}
}

// The whole on embedded parts, with a tenth of the subjects.
func TestNoPlaintext(t *testing.T) {
	dir := t.TempDir()
	d := startDev(t, dir, freeAddress(t))
	d.mustReady(t)
	noPlaintext(t, d, 100, 10, map[string]string{
		"broker": filepath.Join(dir, "kafka"), "database": filepath.Join(dir, "identity"), "bucket": filepath.Join(dir, "bucket"),
	}, func() {})
}

// noPlaintext writes subjects, looks for their canaries wherever bytes are kept, shreds some of them, and tries to open what
// is theirs. flush makes servers write to disk what they hold.
func noPlaintext(t *testing.T, d *dev, n, shredded int, places map[string]string, flush func()) {
	databus := func(args ...string) string {
		t.Helper()
		p := run(t, 3*time.Minute, program(t, "cmd/databus"), append([]string{"--dir", d.dir}, args...)...)
		if p.ExitCode() != 0 {
			t.Fatalf("databus %v: exit code %d\n%s%s", args[0:2], p.ExitCode(), &p.out, &p.err)
		}
		return p.out.String()
	}
	databus("keys", "rotate", canaryAccount, "--per-record")
	var subjects []subject
	for i := range n {
		s := newSubject()
		subjects = append(subjects, s)
		if i%2 == 1 {
			putSealed(t, d, s.Record)
		} else if res, err := d.api.Put(t.Context(), canaryAccount, s.Record, i%10 == 0); err != nil || res.Status != http.StatusOK {
			t.Fatalf("subject %d: %+v, %v", i, res, err)
		}
	}
	last, err := d.api.Put(t.Context(), canaryAccount, client.Record{RecordID: subjects[n-1].RecordID, Fields: subjects[n-1].Fields}, true)
	if err != nil {
		t.Fatal(err)
	}
	subjects[n-1].canaries = append(subjects[n-1].canaries, subjects[n-1].canaries[0])
	c := connect(t, d.brokers, d.registry)
	eventually(t, time.Minute, "the evidence", func() string { return c.behind(t, "ingest.evidence", schemas.DatabusRecords) })
	eventually(t, time.Minute, "the look-ups", func() string {
		for _, s := range subjects {
			if got, err := d.api.Get(t.Context(), canaryAccount, s.RecordID); err != nil || got.Fields["surname"] != s.Fields["surname"] {
				return fmt.Sprint("a record is not found: ", err)
			}
		}
		return ""
	})
	if list, err := d.api.ByPerson(t.Context(), canaryAccount, last.PersonID); err != nil || len(list) == 0 {
		t.Fatalf("by PersonID: %v", err)
	}
	// What goes wrong must not tell either.
	bad := newSubject()
	bad.Fields["email"] = bad.canaries[1] + " is no address"
	bad.Fields["control"] = bad.canaries[8] + "\x00"
	_, _ = d.api.Put(t.Context(), canaryAccount, bad.Record, false) // refused or not
	tooLong := bad
	tooLong.RecordID = strings.Repeat(bad.RecordID, 20)
	if _, err := d.api.Put(t.Context(), canaryAccount, tooLong.Record, false); err == nil {
		t.Error("a RecordID that is too long was taken")
	}
	_, _ = d.api.Get(t.Context(), canaryAccount, bad.canaries[3])
	c.archivedWhole(t, schemas.DatabusRecords)
	databus("graph", "build", "g-canary")

	// Everywhere.
	flush()
	look := newFinder(append(subjects, bad))
	for place, dir := range places {
		files, seen := look.tree(t, dir, []byte(canaryAccount))
		if place != "bucket" && seen == 0 { // there it is compressed, see below
			t.Errorf("%s: the account's name is in none of %d files of %s: the test does not look where records are", place, files, dir)
		}
	}
	look.tree(t, d.dir, nil)
	look.look("standard output and error", []byte(d.out.String()+d.err.String()))
	look.look("metrics", metricsOf(t, d))
	controls := 0
	for _, topic := range schemas.WithDeadLetters() { // batches may be compressed
		for _, r := range c.read(t, topic.Name) {
			look.look(topic.Name, r.Key)
			look.look(topic.Name, r.Value)
			for _, h := range r.Headers {
				look.look(topic.Name, h.Value)
			}
			if bytes.Contains(r.Value, []byte(subjects[0].RequestID)) {
				controls++
			}
		}
	}
	archive := databus("archive", "cat", schemas.DatabusRecords) + databus("archive", "cat", schemas.UsageEvents)
	look.look("archive", []byte(archive))
	if controls == 0 || !strings.Contains(archive, subjects[0].RequestID) {
		t.Error("request ids, which are no secret, are not found: the test does not look where records are")
	}
	for canary, where := range look.found {
		t.Errorf("canary %s… is readable in %s", canary[:6], where)
	}
	t.Logf("looked for %d canaries in %d bytes", len(look.forms), look.bytes)
	prove.Count("plaintext_canaries", "canaries", len(look.found), 0)

	shredSome(t, d, c, subjects, shredded, databus)
}

// putSealed sends a record as a producer does that trusts nobody but ingest.
func putSealed(t *testing.T, d *dev, r client.Record) {
	t.Helper()
	res, err := http.Get(d.api.URL + "/v1/public-key")
	if err != nil {
		t.Fatal(err)
	}
	var key seal.PublicKey
	err = json.NewDecoder(res.Body).Decode(&key)
	if err = errors.Join(err, res.Body.Close()); err != nil {
		t.Fatal(err)
	}
	plain, err := codec.ForEmbedded[event.CustomerRecord]("customer_record").Append(nil, &event.CustomerRecord{RecordID: r.RecordID, Fields: r.Fields})
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := key.SealRequest(canaryAccount, r.RequestID, plain)
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(map[string]any{"request_id": r.RequestID, "recipient_key_id": key.ID(), "sealed": sealed})
	if err != nil {
		t.Fatal(err)
	}
	res, err = http.Post(d.api.URL+"/v1/accounts/"+canaryAccount+"/records", "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(res.Body)
	if err = errors.Join(err, res.Body.Close()); err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("a sealed record: %d %s, %v", res.StatusCode, answer, err)
	}
}

// shredSome shreds the first of the subjects.
func shredSome(t *testing.T, d *dev, c *cluster, subjects []subject, n int, databus func(...string) string) {
	args := []string{"keys", "shred", canaryAccount, "--yes", "--backups-kept", "720h", "--format", "json"}
	for _, s := range subjects[:n] {
		args = append(args, "--record", s.RecordID)
	}
	var receipt struct {
		Keys      int
		Holders   []string
		Expired   []string
		Withdrawn int       `json:"evidence_withdrawn"`
		Swept     []string  `json:"databases_swept"`
		Since     time.Time `json:"unreadable_since"`
		Backups   time.Time `json:"backups_until"`
	}
	if err := json.Unmarshal([]byte(databus(args...)), &receipt); err != nil {
		t.Fatal(err)
	}
	if receipt.Keys != n || len(receipt.Holders) < 3 || len(receipt.Expired) != 0 || receipt.Withdrawn != n || len(receipt.Swept) != 1 || receipt.Backups.Sub(receipt.Since) < 744*time.Hour {
		t.Errorf("receipt: %+v", receipt)
	}
	keys, err := seal.Load(t.Context(), filepath.Join(d.dir, "keys.json"), seal.AWSKMS{})
	if err != nil {
		t.Fatal(err)
	}
	ring, err := seal.OpenKeyring(t.Context(), seal.Options{Kafka: []kgo.Opt{kgo.SeedBrokers(c.brokers...)}, Codec: c.codec, Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	defer ring.Close()
	gone := map[string]bool{}
	for i, s := range subjects {
		found, err := d.api.Get(t.Context(), canaryAccount, s.RecordID)
		if i >= n {
			if err != nil || found.Fields["surname"] != s.Fields["surname"] {
				t.Errorf("subject %d, not shredded: %v", i, err)
			}
			continue
		}
		gone[identity.RecordKey(keys.AccountKey(canaryAccount), s.RecordID)] = true
		if !client.NotFound(err) {
			t.Errorf("subject %d is found after shredding: %v", i, err)
		}
		var answer *client.Error
		if _, err := d.api.Put(t.Context(), canaryAccount, client.Record{RecordID: s.RecordID, Fields: s.Fields}, false); !errors.As(err, &answer) || answer.Status != http.StatusGone {
			t.Errorf("subject %d is written after shredding: %v", i, err)
		}
	}
	opened := map[bool]int{}
	for _, rec := range values[event.DatabusRecord](t, c, schemas.DatabusRecords) {
		if rec.Kind != event.RecordKindUpsert {
			continue
		}
		_, err := ring.Open(t.Context(), nil, &rec)
		if gone[rec.RecordKey] != errors.Is(err, seal.ErrRevoked) || !gone[rec.RecordKey] && err != nil {
			t.Errorf("a version of a record, shredded %v: %v", gone[rec.RecordKey], err)
		}
		opened[gone[rec.RecordKey]]++
	}
	if opened[true] < n || opened[false] < len(subjects)-n {
		t.Errorf("versions on the Databus: %v", opened)
	}
	// A database that is rebuilt drops and counts them, and equals the live one.
	databus("produce", schemas.RebuildRequests, `{"job_id":"after-shredding"}`)
	var end event.RebuildEvent
	eventually(t, 2*time.Minute, "the rebuild", func() string {
		for _, e := range values[event.RebuildEvent](t, c, schemas.RebuildEvents) {
			switch e.Kind {
			case event.RebuildEventKindFailed:
				t.Fatal(e.Error)
			case event.RebuildEventKindCompleted:
				end = e
				return ""
			}
		}
		return "no event of its end"
	})
	if end.Shredded != int64(n) || end.Dead != 0 {
		t.Errorf("the rebuild counts %d shredded and %d dead records, want %d and 0", end.Shredded, end.Dead, n)
	}
	if d.tools() {
		databus("databases", "diff", "v1", end.DatabaseVersion)
	}
}

// tools says whether other commands can ask the process about its database.
func (d *dev) tools() bool {
	b, err := os.ReadFile(filepath.Join(d.dir, "dev.json"))
	return err == nil && bytes.Contains(b, []byte(`"tools"`))
}

// metricsOf are those of every service, from the operators' ports that the log names.
func metricsOf(t *testing.T, d *dev) []byte {
	t.Helper()
	log, err := os.ReadFile(d.log())
	if err != nil {
		t.Fatal(err)
	}
	var all []byte
	ports := map[string]bool{}
	for _, m := range regexp.MustCompile(`"operators_port":"([^"]+)"`).FindAllSubmatch(log, -1) {
		ports[string(m[1])] = true
	}
	for port := range ports {
		res, err := http.Get("http://" + port + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(res.Body)
		if err = errors.Join(err, res.Body.Close()); err != nil {
			t.Fatal(err)
		}
		all = append(all, b...)
	}
	if !bytes.Contains(all, []byte("databus_ingest_calls_total")) {
		t.Errorf("no metrics of ingest from %d ports", len(ports))
	}
	return all
}
