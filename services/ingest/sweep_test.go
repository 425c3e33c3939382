package ingest

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"databus/pkg/history/historytest"
	"databus/pkg/identity"
	"databus/pkg/seal"
)

// A shredded account's records are refused with 410, found by nobody, and gone from the database but for markers; the
// other account's are as they were.
func TestShreddedAccountIsSwept(t *testing.T) {
	r := newRig(t, nil)
	r.start()
	for _, account := range []string{"acme", "other"} {
		for i := range 5 {
			body := fmt.Sprintf(`{"record_id":"r%d","fields":{"email":"%s%d@example.org"}}`, i, account, i)
			if got := r.call("POST", "/v1/accounts/"+account+"/records?wait=applied", body); got.status != http.StatusOK {
				t.Fatalf("%d: %s", got.status, got.body)
			}
		}
	}
	receipt, err := r.Keyring.Shred(t.Context(), seal.Shred{Account: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	if len(receipt.Holders) != 1 || !strings.HasSuffix(receipt.Holders[0], ".test") || len(receipt.Expired) != 0 {
		t.Errorf("the service has not answered: %+v", receipt)
	}
	// It has said that it dropped the key: no waiting here.
	if got := r.call("POST", "/v1/accounts/acme/records", `{"record_id":"r9","fields":{}}`); got.status != http.StatusGone {
		t.Errorf("writing to a shredded account: %d %s", got.status, got.body)
	}
	for _, id := range []string{"r0", "r4"} {
		if got := r.call("GET", "/v1/accounts/acme/records/"+id, ""); got.status != http.StatusNotFound {
			t.Errorf("%s of a shredded account: %d %s", id, got.status, got.body)
		}
		if got := r.call("GET", "/v1/accounts/other/records/"+id, ""); got.status != http.StatusOK {
			t.Errorf("%s of another account: %d %s", id, got.status, got.body)
		}
	}
	r.Eventually("the database is swept", func() bool {
		if err := r.Keyring.CaughtUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		return r.Keyring.IsSwept(historytest.Live, receipt)
	})
	counts := map[string]int{}
	for _, table := range identity.Tables() {
		if err := r.Store(historytest.Live).Scan(t.Context(), table, func(row *identity.Row) error {
			counts[fmt.Sprintf("%s %s deleted=%v", table.Name, row.Account, row.Deleted)]++
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	for what, want := range map[string]int{"records_by_key acme deleted=true": 5, "records_by_key other deleted=false": 5,
		"records_by_person other deleted=false": 5, "records_by_fcid other deleted=false": 5} {
		if counts[what] != want {
			t.Errorf("%s: %d, want %d", what, counts[what], want)
		}
		delete(counts, what)
	}
	if len(counts) > 0 {
		t.Errorf("also there: %v", counts)
	}
	// A delete seals nothing, so it is taken.
	if got := r.call("DELETE", "/v1/accounts/acme/records/r0", ""); got.status != http.StatusOK {
		t.Errorf("deleting from a shredded account: %d %s", got.status, got.body)
	}
}
