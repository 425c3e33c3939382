package graph

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/nyaruka/phonenumbers"
	"golang.org/x/net/idna"
	"golang.org/x/text/cases"
	"golang.org/x/text/language"
	"golang.org/x/text/unicode/norm"
)

// Normaliser turns a customer's fields into identifiers. Fields that it reads:
//
//	national_id (or soc_sec_id)     letters and digits only, upper case, at least 4
//	customer_id                     the customer's own id of the person, which several records may have; folded as names are, known
//	                                within the account alone
//	email                           lower case, IDNA domain; dots and +tags dropped where the provider ignores them
//	hashed_email                    hex of MD5, SHA-1 or SHA-256; a plain email also gives its SHA-256
//	phone                           E.164, in the record's country or the default region
//	maid                            mobile advertising id, a UUID
//	social                          network:handle
//	given_name, surname with birth_date (or date_of_birth; YYYY-MM-DD or YYYYMMDD)
//	given_name, surname with street_number, address_1, address_2 and postcode, or suburb or city where it is missing
//	country                         ISO 3166 code, for phone
//	composites                      identifiers of several facts, see PersonComposites
//
// email, hashed_email, phone, maid and social may be repeated as email_2 to email_9. Names and addresses: Unicode NFKC,
// case folded, each run of anything but letters, digits and marks as one space; the words of a name are sorted, so that
// given name and surname may be swapped. All other fields (state too) are kept with the record but identify nobody.
type Normaliser struct {
	pepper [32]byte
	region string
}

// NewNormaliser returns a normaliser. The region (ISO 3166, two letters) is where phone numbers without a country
// code belong.
func NewNormaliser(pepper [32]byte, region string) (*Normaliser, error) {
	r, err := language.ParseRegion(region)
	if err != nil || !r.IsCountry() {
		return nil, fmt.Errorf("setting up identifiers: region %q is no country; use a code such as AU or US", region)
	}
	return &Normaliser{pepper: pepper, region: r.String()}, nil
}

// Problem says why a field gives no identifier, without its value.
type Problem struct{ Field, Reason string }

func (p Problem) String() string { return p.Field + ": " + p.Reason }

// maxValue is how long a field's value may be, in bytes, to identify somebody.
const maxValue = 1024

// Identifiers returns the identifiers in fields, sorted and without repeats, at most MaxIdentifiers, and what was wrong
// with fields that should have given one. No identifier at all is no error.
func (n *Normaliser) Identifiers(fields map[string]string) ([]Identifier, []Problem) {
	var ids []Identifier
	var problems []Problem
	add := func(kind Kind, value string) { ids = append(ids, n.hash(kind, value)) }
	get := func(names ...string) (string, string) {
		for _, name := range names {
			if v := strings.TrimSpace(fields[name]); v != "" {
				return name, v
			}
		}
		return names[0], ""
	}
	// one tries a field: found by name, normalised by f.
	one := func(field, value string, f func(string) (string, error), use func(string)) {
		if value == "" {
			return
		}
		norm, err := "", errTooLong
		if len(value) <= maxValue {
			norm, err = f(value)
		}
		if err != nil {
			problems = append(problems, Problem{field, err.Error()})
			return
		}
		use(norm)
	}
	region := n.region
	if r, err := language.ParseRegion(strings.TrimSpace(fields["country"])); err == nil && r.IsCountry() {
		region = r.String()
	}

	field, value := get("national_id", "soc_sec_id")
	one(field, value, nationalID, func(v string) { add(NationalID, v) })
	for i := 1; i <= 9; i++ {
		suffix := ""
		if i > 1 {
			suffix = fmt.Sprint("_", i)
		}
		field, value = get("email" + suffix)
		one(field, value, email, func(v string) {
			add(Email, v)
			sum := sha256.Sum256([]byte(v))
			add(HashedEmail, hex.EncodeToString(sum[:]))
		})
		field, value = get("hashed_email" + suffix)
		one(field, value, hashedEmail, func(v string) { add(HashedEmail, v) })
		field, value = get("phone" + suffix)
		one(field, value, func(v string) (string, error) { return phone(v, region) }, func(v string) { add(Phone, v) })
		field, value = get("maid" + suffix)
		one(field, value, maid, func(v string) { add(MAID, v) })
		field, value = get("social" + suffix)
		one(field, value, social, func(v string) { add(Social, v) })
	}
	if who := name(fields); who != "" {
		field, value = get("birth_date", "date_of_birth")
		one(field, value, birthDate, func(v string) { add(NameBirthdate, who+"\x00"+v) })
		if address := address(fields); address != "" {
			add(NameAddress, who+"\x00"+address)
		}
	}
	if list, err := parseComposites(fields[compositesField]); err != nil {
		problems = append(problems, Problem{compositesField, err.Error()})
	} else if len(list) > 0 {
		composites(list, fields, region, func(v string) { add(Composite, v) })
	}
	return sortIdentifiers(ids), problems
}

// RecordIdentifier is the identifier that every record has, so that it has a person even where nothing identifies one.
func (n *Normaliser) RecordIdentifier(account, recordKey string) Identifier {
	return n.hash(Record, account+"/"+recordKey)
}

// ForRecord is Identifiers together with the RecordIdentifier: what a record's payload keeps.
func (n *Normaliser) ForRecord(account, recordKey string, fields map[string]string) ([]Identifier, []Problem) {
	ids, problems := n.Identifiers(fields)
	if own := fold(fields["customer_id"]); own != "" {
		ids = append(ids, n.hash(NationalID, account+"/"+own)) // no national id has a slash
	}
	return sortIdentifiers(append(ids, n.RecordIdentifier(account, recordKey))), problems
}

// hash is the first half of HMAC-SHA256 under the pepper, over the kind's symbol, a zero byte and the value.
func (n *Normaliser) hash(kind Kind, value string) Identifier {
	mac := hmac.New(sha256.New, n.pepper[:])
	mac.Write([]byte(kind.String()))
	mac.Write([]byte{0})
	mac.Write([]byte(value))
	return Identifier{Kind: kind, Hash: [16]byte(mac.Sum(nil)[:16])}
}

var errTooLong = fmt.Errorf("is longer than %d bytes", maxValue)

// fold is NFKC, case folded, each run of other characters than letters, digits and marks as one space.
func fold(s string) string {
	if len(s) > maxValue || !utf8.ValidString(s) {
		return ""
	}
	s = norm.NFKC.String(cases.Fold().String(norm.NFKC.String(s)))
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsNumber(r) && !unicode.IsMark(r)
	}), " ")
}

// name needs both names: one alone is no person.
func name(fields map[string]string) string {
	given, surname := fold(fields["given_name"]), fold(fields["surname"])
	if given == "" || surname == "" {
		return ""
	}
	words := strings.Fields(given + " " + surname)
	slices.Sort(words)
	return strings.Join(words, " ")
}

// address needs a street and a place.
func address(fields map[string]string) string {
	street := fold(fields["street_number"] + " " + fields["address_1"] + " " + fields["address_2"])
	place := fold(fields["postcode"])
	if place == "" {
		place = fold(fields["suburb"])
	}
	if place == "" {
		place = fold(fields["city"])
	}
	if fold(fields["address_1"]) == "" || street == "" || place == "" {
		return ""
	}
	return street + "\x00" + place
}

func nationalID(s string) (string, error) {
	s = strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return unicode.ToUpper(r)
		}
		return -1
	}, norm.NFKC.String(s))
	if len(s) < 4 {
		return "", errors.New("has fewer than 4 letters and digits")
	}
	return s, nil
}

// ignoresDots and ignoresTags are what providers publish about their addresses.
var (
	ignoresDots = []string{"gmail.com"}
	ignoresTags = []string{"gmail.com", "outlook.com", "hotmail.com", "live.com", "icloud.com", "me.com", "fastmail.com", "proton.me", "protonmail.com"}
)

func email(s string) (string, error) {
	bad := errors.New("is not a mail address")
	s = strings.ToLower(norm.NFKC.String(s))
	at := strings.LastIndexByte(s, '@')
	if at < 1 {
		return "", bad
	}
	local, domain := s[:at], strings.TrimSuffix(s[at+1:], ".")
	if strings.ContainsFunc(local, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) || r == '@' }) || len(local) > 64 {
		return "", bad
	}
	domain, err := idna.Lookup.ToASCII(domain)
	if err != nil || !strings.Contains(domain, ".") || len(domain) > 253 {
		return "", bad
	}
	if domain == "googlemail.com" {
		domain = "gmail.com"
	}
	if slices.Contains(ignoresTags, domain) {
		local, _, _ = strings.Cut(local, "+")
	}
	if slices.Contains(ignoresDots, domain) {
		local = strings.ReplaceAll(local, ".", "")
	}
	if local == "" {
		return "", bad
	}
	return local + "@" + domain, nil
}

func hashedEmail(s string) (string, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != 16 && len(b) != 20 && len(b) != 32 {
		return "", errors.New("is not the hex of an MD5, SHA-1 or SHA-256")
	}
	return hex.EncodeToString(b), nil
}

func phone(s, region string) (string, error) {
	number, err := phonenumbers.Parse(norm.NFKC.String(s), region)
	if err != nil || !phonenumbers.IsValidNumber(number) {
		return "", errors.New("is not a phone number; give it with its country code or set country")
	}
	return phonenumbers.Format(number, phonenumbers.E164), nil
}

func maid(s string) (string, error) {
	id, err := uuid.Parse(s)
	if err != nil || id == uuid.Nil { // all zeros: the person opted out
		return "", errors.New("is not an advertising id (a UUID other than zero)")
	}
	return id.String(), nil
}

func social(s string) (string, error) {
	network, handle, _ := strings.Cut(strings.ToLower(norm.NFKC.String(s)), ":")
	network, handle = fold(network), strings.TrimPrefix(strings.TrimSpace(handle), "@")
	if network == "" || handle == "" || strings.ContainsFunc(handle, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) {
		return "", errors.New("is not network:handle")
	}
	return network + ":" + handle, nil
}

func birthDate(s string) (string, error) {
	for _, layout := range []string{time.DateOnly, "20060102"} {
		if t, err := time.Parse(layout, s); err == nil {
			if t.Year() < 1850 {
				return "", errors.New("is before 1850")
			}
			return t.Format(time.DateOnly), nil
		}
	}
	return "", errors.New("is not a date (YYYY-MM-DD or YYYYMMDD)")
}
