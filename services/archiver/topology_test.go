package archiver_test

import (
	"slices"
	"testing"

	"databus/schemas"
	"databus/services/archiver"
)

// What an instance does not archive need not be there when it starts.
func TestNeedsItsOwnTopicsOnly(t *testing.T) {
	cfg := archiver.Default()
	cfg.Topics, cfg.Patterns = []string{schemas.UsageEvents, "audit.of-others"}, []string{"more.*"}
	var names []string
	for _, topic := range archiver.Definition().Needs(cfg).Topics() {
		names = append(names, topic.Name)
	}
	if want := []string{schemas.UsageEvents, schemas.UsageEvents + ".dlq", schemas.ArchiveFiles}; !slices.Equal(names, want) {
		t.Errorf("%v, want %v", names, want)
	}
}
