package graph

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

// Composites are identifiers of several facts: two records that agree on all of them are one person's, although no single
// fact says so. A record names them in its field "composites", separated by spaces. Each is facts joined by "+":
//
//	soundex(given_name)+birth_date+postcode
//
// A fact is a field of the record, or "name", the words of given_name and surname in any order; soundex(...) takes the
// Soundex code of each of its words. Dates, phones, mails and national ids are normalised as identifiers are, other
// fields as names are. A composite of which a fact is missing is left out. Records of any account meet where they name
// the same facts, in whatever order.
//
// "person" stands for PersonComposites.
const compositesField = "composites"

// Limits of composites.
const (
	MaxComposites = 32 // of a record
	maxFacts      = 8  // of a composite
)

// PersonComposites are for records of names, a birth date and an address with errors in them. Their rule: three facts agree of
// given name, surname, date of birth and the parts of the address, and never the surname as the only fact of a
// person, because a family shares it with the address.
const PersonComposites = `soundex(name)+birth_date
	soundex(given_name)+birth_date+postcode soundex(given_name)+birth_date+suburb soundex(given_name)+birth_date+address_1
	soundex(surname)+birth_date+postcode soundex(surname)+birth_date+suburb soundex(surname)+birth_date+address_1
	soundex(name)+postcode+suburb soundex(name)+postcode+address_1 soundex(name)+suburb+address_1
	soundex(given_name)+street_number+address_1+postcode soundex(given_name)+street_number+address_1+suburb`

// fact is a part of a composite.
type fact struct {
	field   string
	soundex bool
}

func (f fact) String() string {
	if f.soundex {
		return "soundex(" + f.field + ")"
	}
	return f.field
}

// composite is a parsed composite; its name is the same in whatever order its facts were written.
type composite struct {
	name  string
	facts []fact
}

// CheckComposites says what is wrong with a list of composites.
func CheckComposites(list string) error {
	_, err := parseComposites(list)
	return err
}

func parseComposites(list string) ([]composite, error) {
	var all []composite
	for _, word := range strings.Fields(list) {
		if word == "person" {
			all = append(all, personComposites...)
			continue
		}
		c, err := parseComposite(word)
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	if len(all) > MaxComposites {
		return nil, fmt.Errorf("are %d composites, at most %d", len(all), MaxComposites)
	}
	return all, nil
}

var errComposite = errors.New("are not composites such as soundex(surname)+birth_date+postcode, of 2 to 8 different facts each")

func parseComposite(word string) (composite, error) {
	var c composite
	for part := range strings.SplitSeq(word, "+") {
		f := fact{field: part}
		if inner, ok := strings.CutPrefix(part, "soundex("); ok {
			if f.field, ok = strings.CutSuffix(inner, ")"); !ok {
				return c, errComposite
			}
			f.soundex = true
		}
		if f.field == "date_of_birth" {
			f.field = "birth_date"
		}
		if f.field == "soc_sec_id" {
			f.field = "national_id"
		}
		if f.field == "" || len(f.field) > 64 || strings.ContainsAny(f.field, "()") || slices.Contains(c.facts, f) {
			return c, errComposite
		}
		c.facts = append(c.facts, f)
	}
	if len(c.facts) < 2 || len(c.facts) > maxFacts {
		return c, errComposite
	}
	slices.SortFunc(c.facts, func(a, b fact) int { return strings.Compare(a.String(), b.String()) })
	names := make([]string, len(c.facts))
	for i, f := range c.facts {
		names[i] = f.String()
	}
	c.name = strings.Join(names, "+")
	return c, nil
}

var personComposites = func() (all []composite) {
	for word := range strings.FieldsSeq(PersonComposites) {
		c, err := parseComposite(word)
		if err != nil {
			panic(word + ": " + err.Error())
		}
		all = append(all, c)
	}
	return all
}()

// composites calls add with each composite of which all facts are there.
func composites(list []composite, fields map[string]string, region string, add func(value string)) {
	known := map[fact]string{}
	var b strings.Builder
next:
	for _, c := range list {
		b.Reset()
		b.WriteString(c.name)
		for _, f := range c.facts {
			v, ok := known[f]
			if !ok {
				v = f.value(fields, region)
				known[f] = v
			}
			if v == "" {
				continue next
			}
			b.WriteByte(0)
			b.WriteString(v)
		}
		add(b.String())
	}
}

// value is the fact's normalised value, empty where it has none.
func (f fact) value(fields map[string]string, region string) string {
	v := normalised(f.field, fields, region)
	if !f.soundex {
		return v
	}
	words := strings.Fields(v)
	for i, w := range words {
		words[i] = soundex(w)
	}
	slices.Sort(words)
	return strings.Join(words, " ")
}

func normalised(field string, fields map[string]string, region string) string {
	value := func(names ...string) string {
		for _, name := range names {
			if v := strings.TrimSpace(fields[name]); v != "" && len(v) <= maxValue {
				return v
			}
		}
		return ""
	}
	var v string
	var err error
	switch field {
	case "name":
		return name(fields)
	case "birth_date":
		v, err = birthDate(value("birth_date", "date_of_birth"))
	case "national_id":
		v, err = nationalID(value("national_id", "soc_sec_id"))
	case "email":
		v, err = email(value("email"))
	case "phone":
		v, err = phone(value("phone"), region)
	default:
		v = fold(fields[field])
	}
	if err != nil {
		return "" // the field itself is said to be wrong, where it identifies
	}
	return v
}

// soundex is the American Soundex code of a word, as the National Archives describe it: the first letter and three digits.
// Accents are dropped; a word without a letter from A to Z is its own code.
func soundex(word string) string {
	const digits = "01230120022455012623010202" // of A to Z; 0: a vowel, H, W or Y
	var code []byte
	var last byte
	for _, r := range norm.NFD.String(word) {
		r = unicode.ToUpper(r)
		if r < 'A' || r > 'Z' {
			continue
		}
		d := digits[r-'A']
		switch {
		case code == nil:
			code = append(code, byte(r))
		case d != '0' && d != last && len(code) < 4:
			code = append(code, d)
		}
		if r != 'H' && r != 'W' { // equal digits on both sides of these are one
			last = d
		}
	}
	if code == nil {
		return word
	}
	for len(code) < 4 {
		code = append(code, '0')
	}
	return string(code)
}
