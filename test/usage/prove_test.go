//go:build servers && prove

package usage

import "testing"

// With all its waiting it takes a minute, and the same test runs on the embedded broker each time.
func TestProveGroupOnKafka(t *testing.T) { proveGroup(t, realKafka(t)) }
