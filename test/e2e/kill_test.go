package e2e

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"databus/pkg/identity"
	"databus/schemas"
	"databus/schemas/event"
	"databus/services/ingest/client"
)

const (
	kills      = 10
	killWrites = 3000
)

// `databus dev` is killed ten times while records are written, and in the middle of its starts. In the end everything
// that was acknowledged is there, in order and once: in the API, in the three tables, in the archive, in the evidence.
//
// Usage is different by design: ingest sends its usage events without waiting, so those of the last moments before a
// kill may be lost; counts may be too low, and never too high.
func TestKill9(t *testing.T) {
	writes := history(1, killWrites)
	dir := t.TempDir()
	keys := filepath.Join(dir, "keys.json")
	killed := loadAndKill(t, filepath.Join(dir, "killed"), keys, writes, kills)
	calm := loadAndKill(t, filepath.Join(dir, "calm"), keys, writes, 0)
	for _, part := range []string{"api", "tables", "evidence"} {
		a, b := killed[part], calm[part]
		if len(a) == 0 || !slices.Equal(a, b) {
			t.Errorf("%s: %d lines with kills, %d without; the first that differs: %s", part, len(a), len(b), firstDifference(a, b))
		}
	}
}

// loadAndKill loads all writes, killing the process meanwhile, checks what is in the end, and returns it as sorted lines:
// who is whom as the API shows it, the rows of the tables, the newest evidence. Versions, offsets and times are left out.
func loadAndKill(t *testing.T, dir, keys string, writes []write, kills int) map[string][]string {
	t.Helper()
	api := freeAddress(t)
	begin := func() *dev { return startDev(t, dir, api, "--keys-file", keys, "--archive-idle", "300ms") }
	l := startLoader(t.Context(), "http://"+api, writes)
	random := rand.New(rand.NewPCG(42, uint64(kills)))
	for i := range kills {
		d := begin()  // after the first kill, on what the last one left
		if i%3 == 2 { // in the middle of its start
			time.Sleep(time.Duration(random.IntN(1500)) * time.Millisecond)
		} else {
			if !d.ready(t, 2*time.Minute) {
				t.Fatalf("databus dev ended by itself, after %d kills: exit code %d\n%s%s%s", i, d.ExitCode(), &d.out, &d.err, tail(d.log(), 15))
			}
			// This life's share is handed out until its end, so that writes are under way then.
			const steps = 20
			life := time.Duration(50+random.IntN(2000)) * time.Millisecond
			from, to := l.quota.Load(), int64(len(writes))*int64(i+1)/int64(kills+1)
			for step := range int64(steps) {
				l.quota.Store(from + (to-from)*(step+1)/steps)
				time.Sleep(life / steps)
			}
		}
		d.kill(t)
	}
	before := l.sent.Load()
	if kills > 0 && (before == 0 || before >= int64(len(writes))) {
		t.Errorf("after the last kill %d of %d writes were acknowledged: the kills were not in the middle of the load", before, len(writes))
	}
	l.quota.Store(math.MaxInt64)
	d := begin()
	d.mustReady(t)
	l.finish(t)
	t.Logf("%d kills: %d writes, %d acknowledged before the last kill, %d calls failed and were sent again", kills, len(writes), before, l.fails.Load())

	c := connect(t, d.brokers, d.registry)
	for _, group := range []string{"ingest.applier.v1", "ingest.evidence"} {
		eventually(t, time.Minute, "reading everything", func() string { return c.behind(t, group, schemas.DatabusRecords) })
	}
	state := map[string][]string{"api": checkRecords(t, d, writes), "evidence": evidence(t, c)}
	checkCounts(t, c, writes)
	c.archivedWhole(t, schemas.DatabusRecords)
	c.archivedWhole(t, schemas.UsageEvents)
	for _, topic := range schemas.WithDeadLetters() {
		if strings.HasSuffix(topic.Name, ".dlq") {
			if n := len(c.read(t, topic.Name)); n > 0 {
				t.Errorf("%s has %d records", topic.Name, n)
			}
		}
	}
	d.Signal(syscall.SIGINT)
	if code := d.wait(t, 30*time.Second); code != 0 {
		t.Errorf("databus dev ended with exit code %d\n%s%s", code, &d.err, tail(d.log(), 15))
	}
	state["tables"] = tables(t, filepath.Join(dir, "identity"))
	return state
}

// checkRecords gets every record by its RecordID and compares it with the model, and finds it by its other two keys.
func checkRecords(t *testing.T, d *dev, writes []write) []string {
	t.Helper()
	holds := func(found []client.Found, id string) bool {
		return slices.ContainsFunc(found, func(f client.Found) bool { return f.RecordID == id })
	}
	var lines []string
	for key, want := range newest(writes) {
		account, id := key[0], key[1]
		got, err := d.api.Get(t.Context(), account, id)
		if want.Delete {
			if !client.NotFound(err) {
				t.Errorf("record %s of %s was deleted: %v, %v", id, account, got, err)
			}
			continue
		}
		if err != nil || got.RecordID != id || !maps.Equal(got.Fields, want.Fields) {
			t.Errorf("record %s of %s is %v, %v; want %v", id, account, got, err, want.Fields)
			continue
		}
		byPerson, err := d.api.ByPerson(t.Context(), account, got.PersonID)
		if err != nil || !holds(byPerson, id) {
			t.Errorf("record %s of %s is not found by its PersonID: %v, %v", id, account, byPerson, err)
		}
		byFCID, err := d.api.ByFCID(t.Context(), account, got.FCID)
		if err != nil || !holds(byFCID, id) || len(byFCID) != len(byPerson) {
			t.Errorf("record %s of %s is not found by its FCID: %v, %v", id, account, byFCID, err)
		}
		lines = append(lines, fmt.Sprintln(account, id, got.FCID, got.PersonID, got.Fields))
	}
	slices.Sort(lines)
	return lines
}

// checkCounts compares the counts of written records with the writes.
func checkCounts(t *testing.T, c *cluster, writes []write) {
	t.Helper()
	wrote := map[string]int64{}
	for _, w := range writes {
		wrote[w.account]++
	}
	eventually(t, time.Minute, "counting", func() string { return c.behind(t, "usage-aggregator", schemas.UsageEvents) })
	counted := map[string]int64{}
	for _, u := range values[event.UsageCount](t, c, schemas.UsageCounts) {
		if u.Pack == "resolve" && u.Period == "total" {
			if u.Matched < counted[u.Account] {
				t.Errorf("the count of %s falls from %d to %d", u.Account, counted[u.Account], u.Matched)
			}
			counted[u.Account] = u.Matched
		}
	}
	for account, n := range wrote {
		if counted[account] > n || counted[account] == 0 {
			t.Errorf("account %s wrote %d records, %d were counted", account, n, counted[account])
		}
	}
	t.Logf("wrote %v, counted %v", wrote, counted)
}

// evidence is the newest observation of each record.
func evidence(t *testing.T, c *cluster) []string {
	t.Helper()
	newest := map[string]string{}
	for _, o := range values[event.Observation](t, c, schemas.IdentityObservations) {
		newest[o.EvidenceID] = fmt.Sprintln(o.EvidenceID, o.Relation, o.Identifiers, o.Weight)
	}
	return slices.Sorted(maps.Values(newest))
}

// tables are the rows of the serving database, read from its files.
func tables(t *testing.T, dir string) []string {
	t.Helper()
	stores, err := identity.OpenStores(t.Context(), "pebble://"+dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stores.Close() }()
	store, err := stores.Keyspace("databus_v1")
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, table := range identity.Tables() {
		err := store.Scan(t.Context(), table, func(r *identity.Row) error {
			lines = append(lines, fmt.Sprintln(table.Name, r.Account, r.RecordKey, r.Deleted, r.FCID, r.PersonID))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(lines)
	return lines
}

func firstDifference(a, b []string) string {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return a[i] + " / " + b[i]
		}
	}
	return "the end"
}
