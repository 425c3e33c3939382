//go:build !prove

package e2e

// subjects of the search for plaintext on real servers; `make prove-plaintext` has 1,000.
const subjects = 200
