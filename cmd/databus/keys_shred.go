package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"databus/pkg/identity"
	"databus/pkg/seal"
	"databus/schemas"
)

type keysShredCmd struct {
	secretsFlags
	Account       string        `arg:"" help:"Account id."`
	Record        []string      `placeholder:"ID" help:"Only this record, by the customer's id of it; may be repeated. It needs a key of its own, see 'keys rotate --per-record'."`
	Person        string        `placeholder:"ID" help:"Only the records of this person, by the account's PersonID, in the database that serves."`
	IdentityURL   string        `env:"DATABUS_IDENTITY__URL" placeholder:"URL" help:"With --person: identity store, such as cassandra://127.0.0.1:9042; default: that of the running 'databus dev'."`
	BackupsKept   time.Duration `placeholder:"720h" help:"How long backups of the brokers' disks are kept; the receipt says when the last one with the wrapped keys is gone."`
	Yes           bool          `help:"Do it: it cannot be undone."`
	WaitDatabases time.Duration `default:"2m" placeholder:"2m" help:"How long to wait until the databases have removed the rows."`
	Format        string        `enum:"text,json" default:"text" help:"text or json, one object."`
}

func (keysShredCmd) Help() string {
	return `Revokes the data keys of an account, or of single records, so that nothing they sealed can be read again: not on the Databus,
not in the archive, not in any database. Returns with a receipt when every holder of keys has said that it dropped them, or
has said nothing for 60 seconds, after which it may not use them. Then the evidence of what was shredded is withdrawn, so
the next graph version is built without it, and the databases that are kept up to date leave only markers without payload.
Writing to a shredded account or record is refused with 410.

The wrapped keys themselves disappear from keys.events with compaction, within a day, and from backups of the brokers' disks
when those are gone: until then somebody who has such a copy and the key-encryption key could undo it. The receipt says when
that ends; tell it with --backups-kept how long backups are kept. If the command is interrupted, run it again.

Only an account's records that were written after "keys rotate --per-record" can be shredded alone, with --record ID or
--person ID. Versions from before are sealed with the whole account's key and stay readable until the account is shredded; the
receipt names such keys.

Examples:

    databus keys rotate former

    databus keys shred former --yes --backups-kept 720h
`
}

// Validate is called by the parser of the command line.
func (c keysShredCmd) Validate() error {
	if len(c.Record) > 0 && c.Person != "" {
		return errors.New("--record and --person do not go together")
	}
	if !c.Yes {
		return errors.New("what is shredded can never be read again; add --yes if that is what you want")
	}
	if c.BackupsKept < 0 {
		return errors.New("--backups-kept must not be negative")
	}
	return checkAccount(c.Account)
}

// Run shreds.
func (c keysShredCmd) Run(ctx context.Context, g *Globals) error {
	recordKeys, err := c.recordKeys(ctx, g)
	if err != nil {
		return err
	}
	at, err := g.reach(ctx)
	if err != nil {
		return err
	}
	k, err := g.keyring(ctx, nil) // nothing is opened
	if err != nil {
		return err
	}
	defer k.Close()
	receipt, err := k.Shred(ctx, seal.Shred{Account: c.Account, RecordKeys: recordKeys, Backups: c.BackupsKept})
	if receipt == nil {
		return g.registryHint(err)
	}
	if err != nil {
		fmt.Fprintln(g.Err, "databus:", oneLine(err))
	}
	shredded, err := seal.ReadShredded(ctx, at.kafka, at.codec)
	var withdrawn int64
	if err == nil {
		withdrawn, err = identity.WithdrawEvidence(ctx, at.kafka, at.codec, shredded)
	}
	if err != nil {
		return fmt.Errorf("the keys are revoked, but run the command again: %w", g.registryHint(err))
	}
	swept, waiting, err := c.databases(ctx, g, k, receipt)
	if err != nil {
		return fmt.Errorf("the keys are revoked; asking about the databases: %w", err)
	}
	if c.Format == "json" {
		line := receiptLine(receipt)
		line["evidence_withdrawn"], line["databases_swept"], line["databases_waiting"] = withdrawn, swept, waiting
		printJSON(g.Out, line)
		return nil
	}
	fmt.Fprintln(g.Out, receiptText(receipt))
	fmt.Fprintf(g.Out, "  evidence withdrawn: %d pieces; the next graph version is built without them\n", withdrawn)
	if len(swept) > 0 {
		fmt.Fprintf(g.Out, "  removed from database %s\n", strings.Join(swept, ", "))
	}
	if len(waiting) > 0 {
		fmt.Fprintf(g.Out, "  database %s has not removed the rows yet, which nobody can open; ingest does so when it runs\n", strings.Join(waiting, ", "))
	}
	return nil
}

// recordKeys of the records that are meant; none means the account.
func (c keysShredCmd) recordKeys(ctx context.Context, g *Globals) ([]string, error) {
	if c.Person != "" {
		return c.personsRecords(ctx, g)
	}
	if len(c.Record) == 0 {
		return nil, nil
	}
	secrets, err := c.load(ctx, g)
	if err != nil {
		return nil, err
	}
	var keys []string
	for _, id := range c.Record {
		keys = append(keys, identity.RecordKey(secrets.AccountKey(c.Account), id))
	}
	return keys, nil
}

// maxPerson is the largest person that is shredded in one go.
const maxPerson = 10_000

func (c keysShredCmd) personsRecords(ctx context.Context, g *Globals) ([]string, error) {
	all, err := g.databases(ctx)
	if err != nil {
		return nil, err
	}
	defer all.Close()
	serving, ok := all.Serving()
	if !ok {
		return nil, fmt.Errorf("%s names no database that serves", schemas.DatabusDatabases)
	}
	var keys []string
	if c.IdentityURL != "" {
		stores, err := identity.OpenStores(ctx, c.IdentityURL)
		if err != nil {
			return nil, err
		}
		defer stores.Close() //nolint:errcheck // it was only read
		keys, err = recordsOfPerson(ctx, stores, serving.Keyspace, c.Account, c.Person)
		if err != nil {
			return nil, err
		}
	} else {
		dev, ok, err := g.dev()
		if err != nil {
			return nil, err
		}
		if !ok || dev.Tools == "" {
			return nil, errors.New("which identity store holds the person's records? Name it with --identity-url, or start `databus dev`")
		}
		if keys, err = askRecordsOfPerson(ctx, dev.Tools, serving.Keyspace, c.Account, c.Person); err != nil {
			return nil, err
		}
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("account %s has no record of such a person in database %s", c.Account, serving.Version)
	}
	return keys, nil
}

func recordsOfPerson(ctx context.Context, stores identity.Stores, keyspace, account, person string) ([]string, error) {
	store, err := stores.Keyspace(keyspace)
	if err != nil {
		return nil, err
	}
	rows, err := store.ByPerson(ctx, account, person, maxPerson)
	var keys []string
	for _, r := range rows {
		keys = append(keys, r.RecordKey)
	}
	return keys, err
}

// databases waits until those that are kept up to date have carried out the shredding.
func (c keysShredCmd) databases(ctx context.Context, g *Globals, k *seal.Keyring, r *seal.Receipt) (swept, waiting []string, err error) {
	all, err := g.databases(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer all.Close()
	deadline := time.Now().Add(c.WaitDatabases)
	for {
		swept, waiting = []string{}, []string{}
		for _, db := range all.Followed() {
			if k.IsSwept(db.Version, r) {
				swept = append(swept, db.Version)
			} else {
				waiting = append(waiting, db.Version)
			}
		}
		if len(waiting) == 0 || !time.Now().Before(deadline) {
			return swept, waiting, nil
		}
		select {
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func receiptLine(r *seal.Receipt) map[string]any {
	none := func(list []string) []string { return append([]string{}, list...) }
	return map[string]any{"shred_id": r.ID, "account": r.Account, "keys": r.Keys, "unreadable_since": r.At, "holders": none(r.Holders), "expired": none(r.Expired),
		"remaining": none(r.Remaining), "log_until": r.LogUntil, "backups_until": r.BackupsUntil}
}

func receiptText(r *seal.Receipt) string {
	text := fmt.Sprintf("account %s, shredding %s: %d keys revoked, unreadable everywhere since %s; dropped by %s", r.Account, r.ID, r.Keys, moment(r.At), names(r.Holders))
	if len(r.Expired) > 0 {
		text += fmt.Sprintf("; %s said nothing until its lease was over", names(r.Expired))
	}
	if len(r.Remaining) > 0 {
		text += fmt.Sprintf("; not covered: versions of these records sealed with %s of the whole account, which stay readable until the account is shredded", names(r.Remaining))
	}
	return text + fmt.Sprintf("; the wrapped keys leave %s by %s, the last backup by %s", schemas.KeysEvents, moment(r.LogUntil), moment(r.BackupsUntil))
}

func names(list []string) string {
	if len(list) == 0 {
		return "nobody, because nobody held keys"
	}
	return strings.Join(list, ", ")
}
