//go:build servers && prove

package usage

import (
	"testing"

	"databus/test/prove"
)

// With all its waiting it takes a minute, and the same test runs on the embedded broker each time.
func TestProveGroupOnKafka(t *testing.T) { proveGroup(t, realKafka(t)) }

// Likewise.
func TestProveHistoryOnKafka(t *testing.T) {
	proveHistory(t, realKafka(t), prove.Size(20_000, 200_000))
}
