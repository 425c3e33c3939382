// Package story plays the whole main job once, in front of somebody: records go in and become persons, an account uses
// up its contract and is refused, a database is rebuilt from the archive while writes go on and equals the live one, and
// a newer graph merges and splits persons.
//
// Promise: every number that it tells is read from the running system: from the API, from topics, from the database.
// Whatever does not come out as promised is an error.
package story

import (
	"context"
	"fmt"
	"time"

	"databus/cmd/databus/internal/load"
	"databus/cmd/databus/internal/local"
	"databus/pkg/identity"
	"databus/services/ingest/client"
)

// Options of a story.
type Options struct {
	// Source of the records to load, and how many there are; 0 where that is not known.
	Source func() (load.Source, error)
	Total  int
	// Account whose contract is used up, and the units of the contract.
	Account string
	Limit   int
	// RestartServices stops and starts every service in the middle of the load and of the rebuild.
	RestartServices bool
	// Teller shows what happens.
	Teller Teller
}

// A Teller is told what happens as it happens.
type Teller interface {
	// Step begins a step with an amount of work; 0 where it is not known.
	Step(title string, total int) Bar
	// Say tells a result.
	Say(format string, args ...any)
}

// A Bar shows the progress of a step.
type Bar interface {
	Add(n int)
	Done()
}

// Outcome is what the story came to. Equal input and keys give equal outcomes on any kind of servers, but for Took.
type Outcome struct {
	Records  int64 `json:"records"`
	Refused  int64 `json:"refused"`
	Persons  int64 `json:"persons"`
	Rows     int64 `json:"rows"`
	Archived int64 `json:"archived_records"`
	// Sample is a record that was looked up by RecordID, PersonID and FCID.
	Sample Sample `json:"sample"`
	// Thresholds that were crossed, in percent, in the order of their events.
	Thresholds []int64 `json:"thresholds"`
	// Counted is how many records each account has written, as its usage count says.
	Counted map[string]int64 `json:"counted"`
	// Compared is the comparison of the live database with the one rebuilt under the same graph.
	Compared Compared `json:"compared"`
	// Tables is a digest of who is whom in the live database, NewTables of which records are one person's under the
	// newer graph, whose ids of persons depend on append times.
	Tables    string `json:"tables"`
	NewTables string `json:"new_tables"`
	// Under the newer graph.
	NewPersons int64 `json:"new_persons"`
	Merged     int64 `json:"merged"`
	Split      int64 `json:"split"`

	Took Took `json:"took"`
}

// Sample is a record found by each of its three keys.
type Sample struct {
	RecordID string `json:"record_id"`
	PersonID string `json:"person_id"`
	FCID     string `json:"fcid"`
	// ByPerson and ByFCID are how many of the account's records the person has.
	ByPerson int `json:"by_person"`
	ByFCID   int `json:"by_fcid"`
}

// Compared is a comparison of two databases.
type Compared struct {
	Rows        int64 `json:"rows"`
	Differences int64 `json:"differences"`
}

// Took says how long things took, and what depends on it.
type Took struct {
	Load    time.Duration `json:"load"`
	Refusal time.Duration `json:"refusal"`
	Rebuild time.Duration `json:"rebuild"`
	Whole   time.Duration `json:"whole"`
	// Overshoot is how many calls were admitted beyond the contract.
	Overshoot int64 `json:"overshoot"`
	// Files in the archive.
	Files int64 `json:"files"`
}

// story is one telling.
type story struct {
	Options
	stack *local.Stack
	api   *client.Client
	out   Outcome
	ends  ends
	// sample is a record that the load accepted.
	sample load.Record
	live   identity.Store
	// wrote counts the records that each account has written, repeats not counted.
	wrote map[string]int64
}

// Run tells the story on a stack that is ready.
func Run(ctx context.Context, stack *local.Stack, o Options) (*Outcome, error) {
	s := &story{Options: o, stack: stack, api: &client.Client{URL: stack.APIURL}, ends: ends{}, wrote: map[string]int64{}}
	begin := time.Now()
	for _, step := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"agreeing on contracts", s.contract},
		{"loading records", s.load},
		{"applying records", s.applied},
		{"looking records up", s.lookUp},
		{"using up a contract", s.useUp},
		{"archiving", s.archived},
		{"rebuilding under the same graph", s.rebuildSame},
		{"counting", s.counted},
		{"rebuilding under a newer graph", s.rebuildNewer},
	} {
		if err := step.run(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", step.name, err)
		}
	}
	s.out.Took.Whole = time.Since(begin)
	return &s.out, nil
}
