package main

import (
	"context"
	"errors"
	"fmt"

	"databus/pkg/seal"
)

type keysWrapCmd struct{ secretsFlags }

func (keysWrapCmd) Help() string {
	return `Replaces a plain file of the secrets by one in which all of them are wrapped by a key of AWS KMS, which is asked for them when
a service starts. The secrets stay the same: nothing that was written has to be written again. The new file is read back
before it takes the old one's place. Instances that run are not concerned; give the new file to those that start next.

Copies of the plain file, those in backups included, still open everything: destroy them, or keep one where nobody but you
gets at it, for the day on which the key of KMS is lost.

Example:

    databus keys wrap --keys-file keys.json --kms-uri aws-kms://arn:aws:kms:eu-central-1:111122223333:key/ID
`
}

// Validate is called by the parser of the command line.
func (c keysWrapCmd) Validate() error {
	if c.KMSURI == "" {
		return errors.New("name the key that is to wrap with --kms-uri")
	}
	return c.kms().Validate()
}

// Run wraps.
func (c keysWrapCmd) Run(ctx context.Context, g *Globals) error {
	if err := seal.Wrap(ctx, c.file(g), c.kms()); err != nil {
		return err
	}
	fmt.Fprintf(g.Out, "%s: wrapped by %s; destroy all copies of the plain file\n", c.file(g), c.KMSURI)
	return nil
}
