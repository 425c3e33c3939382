package people

import (
	"reflect"
	"testing"
)

func TestGenerate(t *testing.T) {
	a, b := Generate(7, 3000), Generate(7, 3000)
	if !reflect.DeepEqual(a, b) {
		t.Error("the same seed gives different records")
	}
	if reflect.DeepEqual(a, Generate(8, 3000)) {
		t.Error("another seed gives the same records")
	}
	ids := map[string]bool{}
	phones, boxes := map[string]int{}, map[string]int{}
	for _, r := range a {
		if ids[r.Account+"/"+r.RecordID] {
			t.Fatalf("%s/%s is there twice", r.Account, r.RecordID)
		}
		ids[r.Account+"/"+r.RecordID] = true
		if r.Fields["email"] == "" && r.Fields["phone"] == "" && r.Fields["national_id"] == "" {
			t.Errorf("%v cannot be reached", r)
		}
		phones[r.Fields["phone"]]++
		boxes[r.Fields["email"]]++
	}
	delete(phones, "")
	delete(boxes, "")
	shared := func(m map[string]int, least int) (n int) {
		for _, c := range m {
			if c >= least {
				n++
			}
		}
		return n
	}
	if shared(boxes, 2) == 0 || shared(phones, 2) == 0 {
		t.Error("nothing is shared between records: there would be nothing to resolve")
	}
}
