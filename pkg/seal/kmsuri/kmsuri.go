// Package kmsuri reads the URIs of keys of AWS KMS. It is apart from package seal, so that a configuration can be checked by
// programs that have nothing to do with keys.
//
// Pure functions, safe for any number of goroutines.
package kmsuri

import (
	"errors"
	"strings"
)

// scheme begins every URI, as Tink writes them.
const scheme = "aws-kms://"

// Parse returns the ARN and the region of aws-kms://arn:aws:kms:REGION:ACCOUNT:key/ID. An alias, which can be pointed at another
// key, is refused.
func Parse(uri string) (arn, region string, err error) {
	arn, ok := strings.CutPrefix(uri, scheme)
	parts := strings.Split(arn, ":")
	if !ok || len(parts) != 6 || parts[0] != "arn" || parts[2] != "kms" || parts[3] == "" || !strings.HasPrefix(parts[5], "key/") {
		return "", "", errors.New("the URI of a KMS key looks like aws-kms://arn:aws:kms:REGION:ACCOUNT:key/ID")
	}
	return arn, parts[3], nil
}
