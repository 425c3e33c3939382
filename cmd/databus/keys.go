package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"text/tabwriter"

	"databus/pkg/seal"
	"databus/schemas"
)

type keysCmd struct {
	Ls     keysLsCmd     `cmd:"" help:"List data keys, holders and receipts of shreddings."`
	Wrap   keysWrapCmd   `cmd:"" help:"Wrap the file of the secrets by a key of AWS KMS."`
	Rotate keysRotateCmd `cmd:"" help:"Make an account seal with a new data key."`
	Shred  keysShredCmd  `cmd:"" help:"Make everything of an account, or some of its records, unreadable for ever."`
}

// secretsFlags say where the secrets are.
type secretsFlags struct {
	KeysFile    string `env:"DATABUS_KEYS__FILE" placeholder:"FILE" help:"File of the secrets; default: keys.json in the directory of 'databus dev'."`
	KMSURI      string `name:"kms-uri" env:"DATABUS_KEYS__KMS_URI" placeholder:"URI" help:"Key of AWS KMS that wraps new data keys, as the services' keys.kms_uri; default: the one that wrapped the file."`
	KMSEndpoint string `name:"kms-endpoint" env:"DATABUS_KEYS__KMS_ENDPOINT" placeholder:"URL" help:"Base URL of KMS, as the services' keys.kms_endpoint."`
}

func (f secretsFlags) file(g *Globals) string {
	return cmp.Or(f.KeysFile, filepath.Join(g.Dir, "keys.json"))
}

func (f secretsFlags) kms() seal.AWSKMS { return seal.AWSKMS{URI: f.KMSURI, Endpoint: f.KMSEndpoint} }

func (f secretsFlags) load(ctx context.Context, g *Globals) (*seal.Keys, error) {
	k, err := seal.Load(ctx, f.file(g), f.kms())
	if errors.Is(err, fs.ErrNotExist) && f.KeysFile == "" {
		return nil, fmt.Errorf("which file holds the secrets? Name it with --keys-file (%w)", err)
	}
	return k, err
}

// keyring reads keys.events up to now; without secrets it opens and makes no keys.
func (g *Globals) keyring(ctx context.Context, secrets *seal.Keys) (*seal.Keyring, error) {
	at, err := g.reach(ctx)
	if err != nil {
		return nil, err
	}
	k, err := seal.OpenKeyring(ctx, seal.Options{Kafka: at.kafka, Codec: at.codec, Keys: secrets})
	if err != nil {
		return nil, err
	}
	return k, upToNow(ctx, schemas.KeysEvents, k.CaughtUp, k.Close)
}

func checkAccount(account string) error {
	if !schemas.ValidAccount(account) {
		return fmt.Errorf("%q is no account id: 1 to 64 characters of [A-Za-z0-9._-]", account)
	}
	return nil
}

type keysLsCmd struct {
	Account string `arg:"" optional:"" help:"Only this account's keys."`
	Records bool   `help:"Also the keys of single records, by record key."`
	Format  string `enum:"text,json" default:"text" help:"text: tables; json: one object per line, with its type."`
}

func (keysLsCmd) Help() string {
	return `Lists the data keys of keys.events by account and age. CREATED seals and opens, ROTATED opens what it sealed, REVOKED is
gone for good. A key with scope "records" wraps a key for each record; those are listed with --records. Without an account
also the processes that hold keys. Receipts say since when a shredding is complete. No secrets are needed: wrapped keys are
not printed.

Examples:

    databus keys ls

    databus keys ls acme --records --format json
`
}

// Run prints a line for each key, holder and receipt.
func (c keysLsCmd) Run(ctx context.Context, g *Globals) error {
	k, err := g.keyring(ctx, nil)
	if err != nil {
		return err
	}
	defer k.Close()
	text := c.Format == "text"
	w := tabwriter.NewWriter(g.Out, 0, 0, 2, ' ', 0)
	records := map[string]int{} // of each account's key
	all := k.List()
	for _, i := range all {
		if i.RecordKey != "" {
			records[i.WrappedBy]++
		}
	}
	if text {
		fmt.Fprintln(w, "KEY\tSTATE\tSCOPE\tRECORDS\tWRAPPED BY\tSINCE")
	}
	for _, i := range all {
		if c.Account != "" && i.Account != c.Account || i.RecordKey != "" && !c.Records {
			continue
		}
		scope := "account"
		switch {
		case i.RecordKey != "":
			scope = i.RecordKey
		case i.PerRecord:
			scope = "records"
		}
		if text {
			fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\n", i.KeyID, i.Kind, scope, records[i.KeyID], cmp.Or(i.WrappedBy, "-"), moment(i.At))
			continue
		}
		printJSON(g.Out, map[string]any{"type": "key", "key_id": i.KeyID, "account": i.Account, "state": i.Kind, "per_record": i.PerRecord, "record_key": i.RecordKey,
			"record_keys": records[i.KeyID], "wrapped_by": i.WrappedBy, "since": i.At.UTC()})
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if c.Account == "" {
		for _, h := range k.Holders() {
			if text {
				fmt.Fprintf(g.Out, "holder %s\n", h)
				continue
			}
			printJSON(g.Out, map[string]any{"type": "holder", "holder": h})
		}
	}
	for _, r := range k.Receipts(c.Account) {
		if text {
			fmt.Fprintln(g.Out, receiptText(&r))
			continue
		}
		line := receiptLine(&r)
		line["type"] = "receipt"
		printJSON(g.Out, line)
	}
	return nil
}

type keysRotateCmd struct {
	secretsFlags
	Account    string `arg:"" help:"Account id."`
	PerRecord  bool   `xor:"scope" help:"From now on each record gets a key of its own, so that it can be shredded by itself."`
	PerAccount bool   `xor:"scope" help:"From now on one key seals all records again."`
	Format     string `enum:"text,json" default:"text" help:"text or json, one object."`
}

func (keysRotateCmd) Help() string {
	return `Makes a new data key for an account; every instance of ingest seals with it as soon as it has read of it. What older keys
sealed stays readable and sealed with them. A key seals at most 2^32 records safely, so rotate before; rotate also after the
key-encryption key was moved to KMS. An account that was shredded gets no key any more.

With --per-record the new key wraps a key for each record that is written from then on. That costs an event and a few
milliseconds for each new record, and about 0.7 KB of memory in every holder; versions written before are not covered until
their whole account is shredded.

Examples:

    databus keys rotate leaver

    databus keys rotate leaver --per-record
`
}

// Validate is called by the parser of the command line.
func (c keysRotateCmd) Validate() error { return checkAccount(c.Account) }

// Run rotates.
func (c keysRotateCmd) Run(ctx context.Context, g *Globals) error {
	secrets, err := c.load(ctx, g)
	if err != nil {
		return err
	}
	k, err := g.keyring(ctx, secrets)
	if err != nil {
		return err
	}
	defer k.Close()
	scope := seal.SameScope
	switch {
	case c.PerRecord:
		scope = seal.RecordScope
	case c.PerAccount:
		scope = seal.AccountScope
	}
	id, err := k.Rotate(ctx, c.Account, scope)
	if err != nil {
		return g.registryHint(err)
	}
	if c.Format == "json" {
		printJSON(g.Out, map[string]any{"account": c.Account, "key_id": id})
		return nil
	}
	fmt.Fprintf(g.Out, "account %s seals with key %s\n", c.Account, id)
	return nil
}
