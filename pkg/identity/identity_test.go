package identity_test

import (
	"testing"

	"databus/pkg/identity"
	"databus/pkg/identity/identitytest"
)

func TestPebble(t *testing.T) {
	stores, err := identity.OpenStores(t.Context(), "pebble://"+t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stores.Close(); err != nil {
			t.Error(err)
		}
	})
	identitytest.Run(t, "test", func(testing.TB) identity.Stores { return stores })
}
