// Package people generates customer records as companies have them: the same persons at several companies and twice at
// one, with typing errors, changed addresses, families behind one telephone and offices behind one mailbox.
//
// Promise: the same seed and size give the same records. Names, streets and numbers are invented; mail domains end in
// .example, telephone numbers are from the range reserved for fiction.
package people

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// A Record is a customer's record, as its account would send it.
type Record struct {
	Account  string
	RecordID string
	Fields   map[string]string
}

// Accounts are the companies whose records are generated.
func Accounts() []string { return []string{"acme-travel", "blue-insurance", "city-energy"} }

var (
	givenNames = strings.Fields("Anna Ben Clara David Emma Felix Grace Henry Ida Jack Karin Leo Mia Noah Olga Paul Rosa Samuel Tina Victor Wanda Xaver Yara Zoe Aidan Bridget Conor Deirdre Eoin Fiona Gareth Holly Imran Jaya Kofi Lucia Marek Nadia Oscar Priya")
	surnames   = strings.Fields("Abbott Baker Carter Doyle Ellis Fischer Gallagher Hughes Ivanov Jensen Kowalski Lambert Murphy Nguyen O'Brien Patel Quinn Rossi Schmidt Tanaka Underwood Varga Walsh Xu Young Zimmer Byrne Costa Dubois Ericsson Ferrari Gruber Horvat Ibrahim Jovanovic Keane Lindgren Moreau Novak Okafor")
	streets    = strings.Fields("Abbey Bridge Castle Dock Elm Forest Garden Harbour Island Juniper King Lake Mill North Orchard Park Quay River Station Tower")
	cities     = strings.Fields("Ashford Brookfield Clonmere Dunmore Eastport Fairview Glenside Hillcrest Inverlea Kingsbridge")
	hosts      = strings.Fields("mail post web inbox letters")
)

// A person is what lies behind the records.
type person struct {
	given, surname, birth  string
	email, phone           string
	house, street, city    string
	postcode, nationalID   string
	sharedPhone, sharedBox string
}

// Generate returns n records over all accounts, about 1.6 for each person, in random order.
func Generate(seed uint64, n int) []Record {
	r := rand.New(rand.NewPCG(seed, 0x9e3779b97f4a7c15))
	records := make([]Record, 0, n)
	accounts := Accounts()
	perAccount := map[string]int{}
	for i := 0; len(records) < n; i++ {
		p := newPerson(r, i)
		for range copies(r) {
			if len(records) == n {
				break
			}
			account := accounts[r.IntN(len(accounts))]
			perAccount[account]++
			records = append(records, Record{
				Account:  account,
				RecordID: fmt.Sprintf("%s-%06d", strings.ToUpper(account[:2]), perAccount[account]),
				Fields:   p.fields(r),
			})
		}
	}
	r.Shuffle(len(records), func(i, j int) { records[i], records[j] = records[j], records[i] })
	return records
}

// copies is how often a person is a customer: mostly once.
func copies(r *rand.Rand) int {
	switch x := r.IntN(100); {
	case x < 60:
		return 1
	case x < 85:
		return 2
	case x < 96:
		return 3
	default:
		return 4
	}
}

func newPerson(r *rand.Rand, i int) person {
	pick := func(list []string) string { return list[r.IntN(len(list))] }
	p := person{given: pick(givenNames), surname: pick(surnames), house: fmt.Sprint(1 + r.IntN(180)), street: pick(streets), city: pick(cities)}
	p.birth = fmt.Sprintf("%04d-%02d-%02d", 1940+r.IntN(65), 1+r.IntN(12), 1+r.IntN(28))
	p.postcode = fmt.Sprintf("%05d", 10000+r.IntN(80000))
	p.nationalID = fmt.Sprintf("%09d", 100000000+i*37+r.IntN(37))
	local := strings.ToLower(strings.ReplaceAll(p.given+"."+p.surname, "'", ""))
	p.email = fmt.Sprintf("%s%d@%s.example", local, i, pick(hosts))
	p.phone = fmt.Sprintf("+1 %03d 555 %04d", 200+i/10000%700, i%10000)
	if r.IntN(12) == 0 { // a family behind one telephone
		p.sharedPhone = fmt.Sprintf("+1 %03d 555 %04d", 910+i/40/10000, i/40%10000)
	}
	if r.IntN(50) == 0 { // an office behind one mailbox
		p.sharedBox = fmt.Sprintf("info@office%d.example", i%7)
	}
	return p
}

// fields is one company's view of the person: some fields missing, some written differently, some wrong.
func (p person) fields(r *rand.Rand) map[string]string {
	chance := func(percent int) bool { return r.IntN(100) < percent }
	f := map[string]string{"given_name": p.given, "surname": p.surname}
	if chance(70) {
		f["birth_date"] = p.birth
	}
	if chance(75) {
		f["email"] = p.email
		if chance(20) {
			f["email"] = strings.ToUpper(p.email[:1]) + p.email[1:]
		}
	}
	if chance(60) {
		f["phone"] = p.phone
		if chance(40) {
			f["phone"] = strings.ReplaceAll(p.phone, " ", "-")
		}
	}
	if chance(25) {
		f["national_id"] = p.nationalID
	}
	if chance(65) {
		f["address_1"], f["city"], f["postcode"] = p.house+" "+p.street+" Street", p.city, p.postcode
	}
	if p.sharedPhone != "" && chance(50) {
		f["phone"] = p.sharedPhone
	}
	if p.sharedBox != "" && chance(50) {
		f["email"] = p.sharedBox
	}
	if chance(8) {
		f["surname"] = typo(r, p.surname)
	}
	if f["email"] == "" && f["phone"] == "" && f["national_id"] == "" {
		f["email"] = p.email // a customer whom nobody can reach is no customer
	}
	f["customer_since"] = fmt.Sprint(2005 + r.IntN(20))
	return f
}

// typo swaps two neighbouring letters.
func typo(r *rand.Rand, s string) string {
	if len(s) < 4 {
		return s
	}
	i := 1 + r.IntN(len(s)-2)
	b := []byte(s)
	b[i], b[i+1] = b[i+1], b[i]
	return string(b)
}
