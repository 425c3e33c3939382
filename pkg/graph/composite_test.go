package graph

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// Codes that the National Archives give as examples, and words that are none of English.
func TestSoundex(t *testing.T) {
	for word, want := range map[string]string{
		"washington": "W252", "lee": "L000", "gutierrez": "G362", "pfister": "P236", "jackson": "J250", "tymczak": "T522", "vandeusen": "V532",
		"ashcraft": "A261", "robert": "R163", "rupert": "R163", "rubin": "R150", "müller": "M460", "mueller": "M460", "o1neil": "O540",
		"李": "李", "42": "42", "": "",
	} {
		if got := soundex(word); got != want {
			t.Errorf("%s: %s, want %s", word, got, want)
		}
	}
}

// common counts the composites that two records share.
func common(t *testing.T, a, b fields) (n int) {
	t.Helper()
	ids := func(f fields) []Identifier {
		all, problems := normaliser(t).Identifiers(f)
		if len(problems) > 0 {
			t.Errorf("%v: %v", f, problems)
		}
		return slices.DeleteFunc(all, func(id Identifier) bool { return id.Kind != Composite })
	}
	other := ids(b)
	for _, id := range ids(a) {
		if slices.Contains(other, id) {
			n++
		}
	}
	return n
}

func TestCompositesMeet(t *testing.T) {
	jane := fields{"given_name": "Jane", "surname": "Smith", "birth_date": "1990-02-03", "postcode": "2000", "address_1": "Main St", "suburb": "Sydney", "street_number": "7",
		"email": "jane@example.org", "phone": "0412 345 678", "national_id": "12-345"}
	for _, c := range []struct {
		a, b   string // composites
		change fields
		want   int
	}{
		{"surname+birth_date", "birth_date+surname", nil, 1},
		{"surname+birth_date", "date_of_birth+surname", fields{"birth_date": "", "date_of_birth": "19900203"}, 1},
		{"surname+birth_date", "surname+birth_date", fields{"surname": "SMITH "}, 1},
		{"surname+birth_date", "surname+birth_date", fields{"surname": "Smyth"}, 0},
		{"soundex(surname)+birth_date", "soundex(surname)+birth_date", fields{"surname": "Smyth"}, 1},
		{"soundex(surname)+birth_date", "surname+birth_date", nil, 0},
		{"surname+birth_date", "surname+birth_date", fields{"birth_date": "3 Feb"}, 0}, // no date is no fact
		{"surname+birth_date", "surname+birth_date", fields{"birth_date": ""}, 0},
		{"soundex(name)+postcode", "postcode+soundex(name)", fields{"given_name": "Smyth", "surname": "Jayne"}, 1},
		{"name+phone name+email name+national_id", "name+email name+phone name+soc_sec_id", fields{"phone": "+61412345678", "email": "JANE@EXAMPLE.ORG", "national_id": "12345"}, 3},
		{"person", "person", nil, 12},
		{"person", "person", fields{"surname": "Miller"}, 5},                                            // she married: given name with birth date or street
		{"person", "person", fields{"given_name": "Paul", "birth_date": "1992-05-05"}, 0},               // her brother
		{"person", "person", fields{"given_name": "Paul"}, 3},                                           // a twin brother cannot be told from a wrong given name
		{"person", "person", fields{"birth_date": "1960-01-01", "surname": "Smithe", "suburb": "x"}, 2}, // a wrong date
		{"person", "person", fields{"postcode": "3000", "suburb": "Melbourne", "address_1": "Other St"}, 1},
	} {
		a, b := fields{}, fields{}
		for k, v := range jane {
			a[k], b[k] = v, v
		}
		for k, v := range c.change {
			b[k] = v
		}
		if c.change["birth_date"] == "3 Feb" {
			delete(b, "given_name") // so that nothing but the composite reads the date
		}
		a["composites"], b["composites"] = c.a, c.b
		if got := common(t, a, b); got != c.want {
			t.Errorf("%s and %s, changed %v: %d in common, want %d", c.a, c.b, c.change, got, c.want)
		}
	}
}

func TestCompositesThatAreRefused(t *testing.T) {
	for _, bad := range []string{"surname", "surname+", "+", "a+a", "soundex(surname+b", "soundex()+b", "metaphone(surname)+b", "a+soundex(soundex(b))",
		"a+b+c+d+e+f+g+h+i", "date_of_birth+birth_date", strings.Repeat("x", 65) + "+b", strings.Repeat("person ", 3)} {
		if CheckComposites(bad) == nil {
			t.Errorf("%q was taken", bad)
		}
		ids, problems := normaliser(t).Identifiers(fields{"a": "1", "b": "2", "surname": "canary", "composites": bad})
		if len(ids) != 0 || len(problems) != 1 || problems[0].Field != "composites" || strings.Contains(problems[0].Reason, "canary") {
			t.Errorf("%q: %v, %v", bad, ids, problems)
		}
	}
	if err := CheckComposites(" person\n a+b "); err != nil {
		t.Error(err)
	}
}

// A mail address of few persons stays one, however many composites their records have; a composite of too many does not.
func TestCompositesAndSharedIdentifiers(t *testing.T) {
	var evidence []Evidence
	for i := range 3 {
		ids := []Identifier{ident(Email, 1)}
		for c := range MaxWeak {
			ids = append(ids, ident(Composite, 100*i+c))
		}
		evidence = append(evidence, together(fmt.Sprint("few", i), 1, ids...))
	}
	for i := range MaxStrong + 1 {
		evidence = append(evidence, together(fmt.Sprint("many", i), 1, ident(Composite, 9999), ident(NameBirthdate, i)))
	}
	g := build(evidence...)
	if _, known, isShared := g.Lookup(ident(Composite, 9999)); !known || !isShared || g.Stats().Shared != 1 {
		t.Errorf("%+v", g.Stats())
	}
	if person(t, g, ident(Composite, 0)) != FCIDOf(ident(Email, 1)) || person(t, g, ident(Composite, 201)) != FCIDOf(ident(Email, 1)) {
		t.Error("a mail address does not join its records")
	}
}
