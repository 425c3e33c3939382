package graph

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"databus/schemas/event"
)

func normaliser(t testing.TB) *Normaliser {
	t.Helper()
	n, err := NewNormaliser([32]byte{1, 2, 3}, "AU")
	if err != nil {
		t.Fatal(err)
	}
	return n
}

type fields = map[string]string

// Each line: two ways to write one person's fields, and the kind they share.
func TestSpellingsOfOneIdentifier(t *testing.T) {
	n := normaliser(t)
	for _, c := range []struct {
		kind Kind
		a, b fields
	}{
		{Email, fields{"email": "Jane.Doe+news@GMail.com"}, fields{"email": " janedoe@googlemail.com "}},
		{Email, fields{"email": "jane@BÜCHER.example"}, fields{"email": "jane@xn--bcher-kva.example"}},
		{Email, fields{"email": "jane@example.org"}, fields{"email_2": "JANE@example.org."}},
		{Email, fields{"email": "jane+x@outlook.com"}, fields{"email": "jane@outlook.com"}},
		{Phone, fields{"phone": "0412 345 678"}, fields{"phone": "+61 412-345-678"}},
		{Phone, fields{"phone": "(415) 555-2671", "country": "us"}, fields{"phone": "+14155552671"}},
		{Phone, fields{"phone": "020 7946 0018", "country": "GBR"}, fields{"phone": "+442079460018"}},
		{MAID, fields{"maid": "6D92078A-8246-4BA4-AE5B-76104861E7DC"}, fields{"maid": "6d92078a82464ba4ae5b76104861e7dc"}},
		{Social, fields{"social": "Mastodon:@Jane"}, fields{"social": "mastodon: jane"}},
		{NationalID, fields{"national_id": "123-456 789"}, fields{"soc_sec_id": "123456789"}},
		{NameBirthdate, fields{"given_name": "Straße", "surname": "O'Neil", "birth_date": "1990-02-03"},
			fields{"given_name": "o neil", "surname": "STRASSE", "date_of_birth": "19900203"}},
		{NameAddress, fields{"given_name": "ﬁona", "surname": "Wu", "address_1": "1 Main  St.", "postcode": "2000"},
			fields{"given_name": "Fiona", "surname": "WU", "street_number": "1", "address_1": "main st", "postcode": "２０００", "state": "NSW"}},
	} {
		find := func(f fields) []Identifier {
			ids, problems := n.Identifiers(f)
			if len(problems) > 0 {
				t.Errorf("%v: %v", f, problems)
			}
			return slices.DeleteFunc(ids, func(id Identifier) bool { return id.Kind != c.kind })
		}
		if a, b := find(c.a), find(c.b); len(a) != 1 || !slices.Equal(a, b) {
			t.Errorf("%v and %v do not share one %v: %d, %d", c.a, c.b, c.kind, len(a), len(b))
		}
	}
	plain, _ := n.Identifiers(fields{"email": "Jane@Example.org"})
	// printf jane@example.org | sha256sum
	hashed, _ := n.Identifiers(fields{"hashed_email": "13D855CE931073D4924AC377CDA0E9A543908B9D6607727C8033D729C65ECED6"})
	if len(plain) != 2 || len(hashed) != 1 || hashed[0] != plain[1] {
		t.Error("a plain mail address does not meet its hash")
	}
}

func TestDifferentThingsStayDifferent(t *testing.T) {
	n := normaliser(t)
	seen := map[Identifier]string{}
	for _, f := range []fields{
		{"email": "a.b@example.org"}, {"email": "ab@example.org"}, {"email": "ab+c@example.org"},
		{"phone": "+61412345678"}, {"phone": "+61412345679"},
		{"national_id": "6141 2345 678"},
		{"given_name": "a", "surname": "b", "birth_date": "1990-02-03"}, {"given_name": "a", "surname": "b", "birth_date": "1990-02-04"},
		{"given_name": "a", "surname": "b c", "address_1": "d", "postcode": "1"}, {"given_name": "a", "surname": "b", "address_1": "c d", "postcode": "1"},
		{"given_name": "a", "surname": "b", "address_1": "c", "postcode": "d 1"},
	} {
		ids, problems := n.Identifiers(f)
		if len(ids) == 0 || len(problems) > 0 {
			t.Errorf("%v: %d identifiers, %v", f, len(ids), problems)
		}
		for _, id := range ids {
			if before, ok := seen[id]; ok {
				t.Errorf("%v and %s are the same %v", f, before, id.Kind)
			}
			seen[id] = fmt.Sprint(f)
		}
	}
	other, err := NewNormaliser([32]byte{9}, "AU")
	if err != nil {
		t.Fatal(err)
	}
	a, _ := n.Identifiers(fields{"email": "a@example.org"})
	b, _ := other.Identifiers(fields{"email": "a@example.org"})
	if a[0] == b[0] {
		t.Error("another pepper gives the same hash")
	}
}

func TestBadFieldsAreNamedWithoutTheirValues(t *testing.T) {
	n := normaliser(t)
	for field, values := range map[string][]string{
		"email":        {"canary", "@canary.org", "canary@", "canary@host", "can ary@x.org", "canary@-x-.org", strings.Repeat("canary", 20) + "@x.org", "+canary@gmail.com", "ca\x00nary@x.org"},
		"hashed_email": {"canary", "00ff", strings.Repeat("zz", 32)},
		"phone":        {"canary", "12", "+999123456789", "0000000000"},
		"maid":         {"canary", "00000000-0000-0000-0000-000000000000"},
		"social":       {"canary", ":canary", "canary:", "x:can ary"},
		"national_id":  {"-", "12", strings.Repeat("canary", 1000)},
	} {
		for _, value := range values {
			ids, problems := n.Identifiers(fields{field: value})
			if len(ids) != 0 || len(problems) != 1 || problems[0].Field != field {
				t.Errorf("%s %q: %d identifiers, %v", field, value, len(ids), problems)
			}
			if strings.Contains(fmt.Sprint(problems), "canary") {
				t.Errorf("%s: the value is in the problem", field)
			}
		}
	}
	for _, date := range []string{"19900230", "1990-13-01", "03/02/1990", "10000101", "canary"} {
		ids, problems := n.Identifiers(fields{"given_name": "a", "surname": "b", "birth_date": date})
		if len(ids) != 0 || len(problems) != 1 {
			t.Errorf("date %q: %d identifiers, %v", date, len(ids), problems)
		}
	}
	if ids, problems := n.Identifiers(fields{"given_name": "\xff", "surname": "b", "birth_date": "1990-02-03", "other": "x"}); len(ids)+len(problems) != 0 {
		t.Errorf("%d identifiers, %v", len(ids), problems)
	}
	if _, err := NewNormaliser([32]byte{}, "Atlantis"); err == nil {
		t.Error("a region that does not exist was taken")
	}
}

func TestRecordsAlwaysHaveAnIdentifier(t *testing.T) {
	n := normaliser(t)
	ids, _ := n.ForRecord("acme", "00ff", nil)
	other, _ := n.ForRecord("acm", "e00ff", nil)
	if len(ids) != 1 || ids[0].Kind != Record || ids[0] == other[0] {
		t.Fatalf("%v", ids)
	}
	f := fields{}
	for i := 1; i <= 9; i++ {
		suffix := fmt.Sprint("_", i)
		if i == 1 {
			suffix = ""
		}
		f["email"+suffix] = fmt.Sprintf("m%d@example.org", i)
		f["social"+suffix] = fmt.Sprintf("x:h%d", i)
	}
	ids, problems := n.ForRecord("acme", "00ff", f)
	if len(ids) != 28 || len(problems) != 0 || !slices.IsSortedFunc(ids, Identifier.Compare) || ids[27].Kind != Record {
		t.Fatalf("%d identifiers, %v", len(ids), problems)
	}
	many := []Identifier{n.RecordIdentifier("a", "b")}
	for i := range 1000 {
		many = append(many, n.hash(Email, fmt.Sprint(i)))
	}
	if got := sortIdentifiers(many); len(got) != MaxIdentifiers || got[MaxIdentifiers-1].Kind != Record {
		t.Fatalf("%d identifiers, the last is %v", len(got), got[len(got)-1].Kind)
	}
	back, err := FromPayload(ToPayload(ids))
	if err != nil || !slices.Equal(back, ids) {
		t.Fatalf("%v, %v", back, err)
	}
	back, err = FromEvidence(ToEvidence(ids))
	if err != nil || !slices.Equal(back, ids) {
		t.Fatalf("%v, %v", back, err)
	}
	for _, bad := range [][]event.Identifier{{{Kind: "OTHER", Hash: make([]byte, 16)}}, {{Kind: "EMAIL", Hash: make([]byte, 15)}}, make([]event.Identifier, 65)} {
		if _, err := FromPayload(bad); err == nil {
			t.Error("bad identifiers were taken")
		}
	}
}

// A customer's own id joins records of its account, whatever else they say, and nobody else's.
func TestCustomersOwnID(t *testing.T) {
	n := normaliser(t)
	own := func(account, record string, f fields) Identifier {
		t.Helper()
		ids, problems := n.ForRecord(account, record, f)
		if len(problems) > 0 || len(ids) != 2 || ids[0].Kind != NationalID || ids[1].Kind != Record {
			t.Fatalf("%v: %v, %v", f, ids, problems)
		}
		return ids[0]
	}
	a := own("acme", "r1", fields{"customer_id": "c-17"})
	if own("acme", "r2", fields{"customer_id": " C 17 "}) != a {
		t.Error("two records of one customer differ")
	}
	if own("blue", "r1", fields{"customer_id": "c-17"}) == a || own("acme", "r1", fields{"customer_id": "c-18"}) == a || own("acme", "r3", fields{"national_id": "acme/c17"}) == a {
		t.Error("somebody else is the same")
	}
	if ids, _ := n.ForRecord("acme", "r1", fields{"customer_id": " - "}); len(ids) != 1 {
		t.Error("an empty id identifies")
	}
}
