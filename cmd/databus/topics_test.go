package main

import (
	"encoding/json"
	"strings"
	"testing"

	"databus/schemas"
)

func TestTopics(t *testing.T) {
	s := start(t)
	all := len(schemas.WithDeadLetters())
	r := s.run(t, "topics", "check")
	r.fails(t, 1, "differences from the catalogue")
	if got := strings.Count(r.out, "is missing; run: databus topics apply"); got != all {
		t.Errorf("%d topics are missing, want %d", got, all)
	}
	s.ok(t, "topics", "apply", schemas.UsageEvents)
	s.ok(t, "topics", "check", schemas.UsageEvents) // with its dead-letter topic
	s.ok(t, "topics", "apply")
	s.ok(t, "topics", "check")
	if out := s.ok(t, "topics", "apply"); !strings.Contains(out, " 0 changes") {
		t.Errorf("the second time: %s", out)
	}
	s.run(t, "topics", "apply", "usage.nothing").fails(t, 1, "not in the catalogue")
}

func TestTopicWithWrongPartitions(t *testing.T) {
	s := start(t)
	s.create(t, schemas.UsageCounts, 3)
	for _, command := range []string{"apply", "check"} {
		r := s.run(t, "topics", command)
		r.fails(t, 1)
		if text := r.out + r.err; !strings.Contains(text, "topic usage.counts: partitions is 3, the catalogue wants 8; ") {
			t.Errorf("%s: %s", command, text)
		}
	}
	r := s.run(t, "topics", "check", schemas.UsageCounts, "--format", "json")
	r.fails(t, 1)
	var found struct{ Topic, What, Is, Want, Next string }
	if err := json.Unmarshal([]byte(strings.SplitN(r.out, "\n", 2)[0]), &found); err != nil {
		t.Fatal(err)
	}
	if found.Topic != schemas.UsageCounts || found.Is != "3" && found.What == "partitions" || found.Next == "" {
		t.Errorf("%+v", found)
	}
	// Everything else is there none the less.
	s.ok(t, "topics", "check", schemas.UsageEvents)
}

func TestTopicsList(t *testing.T) {
	r := invoke(t.Context(), strings.NewReader(""), "topics", "list")
	if got, want := strings.Count(r.out, "\n"), len(schemas.WithDeadLetters())+1; r.code != 0 || got != want {
		t.Errorf("exit code %d, %d lines, want %d", r.code, got, want)
	}
	r = invoke(t.Context(), strings.NewReader(""), "topics", "list", schemas.UsageCounts, "--format", "json")
	if !strings.Contains(r.out, `"min_compaction_lag_ms":86400000`) {
		t.Errorf("json: %s", r.out)
	}
}
