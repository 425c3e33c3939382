package graph

import (
	"bytes"
	"iter"
	"maps"
	"slices"
)

// Move says that records of the person From in the older version are the person To's in the newer one.
type Move struct {
	From, To FCID
	Records  int64
	// Accounts of the records, sorted.
	Accounts []string
}

// Pair is a record's person under an older and a newer version. The account may be left empty.
type Pair struct {
	Account  string
	From, To FCID
}

// Changes between two graph versions, over some records.
type Changes struct {
	// Records that were compared, and those whose FCID differs.
	Records, Moved int64
	// PersonsBefore and PersonsAfter are distinct persons of the records.
	PersonsBefore, PersonsAfter int64
	// Merged lists persons that were joined into others: the older person is not the newer one's id.
	Merged []Move
	// Split lists persons that came out of an older person that is also the origin of others.
	Split []Move
	// Renamed lists persons with the same records and another anchor.
	Renamed []Move
}

// Diff compares the persons of records, given by their account and their identifiers, under two graph versions. Records
// that a version knows nobody for are left out; there are none where each has its RecordIdentifier.
func Diff(older, newer *Graph, records iter.Seq2[string, []Identifier]) Changes {
	return DiffPairs(func(yield func(Pair) bool) {
		for account, ids := range records {
			from, ok := older.Resolve(ids)
			to, ok2 := newer.Resolve(ids)
			if ok && ok2 && !yield(Pair{account, from, to}) {
				return
			}
		}
	})
}

// DiffPairs compares the persons of records under an older and a newer version. The order is irrelevant.
func DiffPairs(pairs iter.Seq[Pair]) Changes {
	type pair struct{ from, to FCID }
	counts := map[pair]int64{}
	accounts := map[pair]map[string]struct{}{}         // of moves
	targets, sources := map[FCID]int{}, map[FCID]int{} // of an older person; of a newer one
	var c Changes
	for r := range pairs {
		p := pair{r.From, r.To}
		if counts[p] == 0 {
			targets[r.From]++
			sources[r.To]++
		}
		counts[p]++
		c.Records++
		if r.From != r.To {
			c.Moved++
			if accounts[p] == nil {
				accounts[p] = map[string]struct{}{}
			}
			accounts[p][r.Account] = struct{}{}
		}
	}
	c.PersonsBefore, c.PersonsAfter = int64(len(targets)), int64(len(sources))
	for p, n := range counts {
		if p.from == p.to {
			continue
		}
		move := Move{From: p.from, To: p.to, Records: n, Accounts: slices.Sorted(maps.Keys(accounts[p]))}
		// A part of a person that went to another existing person is both; each side is listed.
		merged, split := sources[p.to] > 1, targets[p.from] > 1
		if merged {
			c.Merged = append(c.Merged, move)
		}
		if split {
			c.Split = append(c.Split, move)
		}
		if !merged && !split {
			c.Renamed = append(c.Renamed, move)
		}
	}
	for _, list := range [][]Move{c.Merged, c.Split, c.Renamed} {
		slices.SortFunc(list, func(a, b Move) int {
			if d := bytes.Compare(a.From[:], b.From[:]); d != 0 {
				return d
			}
			return bytes.Compare(a.To[:], b.To[:])
		})
	}
	return c
}
