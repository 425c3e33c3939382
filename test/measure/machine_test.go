package measure_test

import (
	"regexp"
	"testing"
	"time"

	"databus/test/measure"
)

func TestLoad(t *testing.T) {
	m := measure.Watch()
	for end := time.Now().Add(50 * time.Millisecond); time.Now().Before(end); { // some ticks pass
	}
	if got := m.Load(); !regexp.MustCompile(`^\d+\.\d\d \d+\.\d\d \d+\.\d\d, \d+ % stolen$`).MatchString(got) {
		t.Errorf("%q", got)
	}
}
