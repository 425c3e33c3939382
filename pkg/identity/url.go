package identity

import (
	"errors"
	"fmt"
	"strings"
)

// CheckURL reports what is wrong with a URL for [OpenStores], without connecting: waiting would not cure it.
func CheckURL(url string) error {
	if url == "mem://" || strings.HasPrefix(url, "pebble:///") {
		return nil
	}
	rest, ok := strings.CutPrefix(url, "cassandra://")
	if !ok {
		return errors.New("it should look like pebble:///dir, cassandra://host:9042 or mem://")
	}
	if _, err := parseCassandra(rest); err != nil {
		return fmt.Errorf("the URL cannot be used: %w", err)
	}
	return nil
}
