// Package seal tests pkg/seal with a stranger's KMS: moto's, which keeps AWS's protocol in Python.
package seal
