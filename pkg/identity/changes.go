package identity

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/follow"
	"databus/pkg/graph"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

// Aliases are the events that tell callers which persons of an older graph version are whom in a newer one: for each move of
// graph.Changes one, with the PersonIDs of every account that has records of it. They are a function of their arguments,
// in order of kind and FCIDs.
func Aliases(older, newer string, c graph.Changes, personID func(account string, fcid graph.FCID) string) []event.FcidChange {
	var all []event.FcidChange
	for _, l := range []struct {
		kind  event.ChangeKind
		moves []graph.Move
	}{{event.ChangeKindMerged, c.Merged}, {event.ChangeKindSplit, c.Split}, {event.ChangeKindRenamed, c.Renamed}} {
		for _, m := range l.moves {
			e := event.FcidChange{FromVersion: older, ToVersion: newer, Kind: l.kind, FromFcid: m.From.String(), ToFcid: m.To.String(), Aliases: []event.PersonAlias{}}
			for _, account := range m.Accounts {
				e.Aliases = append(e.Aliases, event.PersonAlias{Account: account, FromPersonID: personID(account, m.From), ToPersonID: personID(account, m.To)})
			}
			all = append(all, e)
		}
	}
	return all
}

// PersonIDs derives the PersonIDs of accounts from the secrets.
func PersonIDs(keys interface{ AccountIDKey(account string) [32]byte }) func(account string, fcid graph.FCID) string {
	return func(account string, fcid graph.FCID) string {
		return PersonID(keys.AccountIDKey(account), fcid).String()
	}
}

// changeKey is what there is once of a change: for each account one alias.
type changeKey struct {
	kind           event.ChangeKind
	from, to       string // FCIDs
	account, alias string
}

const (
	// changesAtOnce is how many events one transaction has.
	changesAtOnce   = 10_000
	changesDeadline = 5 * time.Minute
)

// EmitChanges produces to identity.changes what is not there yet of these changes between two versions, and returns how many
// events that were. Called again, after a crash too, it emits what is missing: no alias twice within the topic's
// retention. Of two callers at the same time for the same versions the first one fails. The client's options must name the
// catalogue's partitioner.
func EmitChanges(ctx context.Context, kafka []kgo.Opt, c *codec.Codec, changes []event.FcidChange) (emitted int, err error) {
	if len(changes) == 0 {
		return 0, nil
	}
	older, newer := changes[0].FromVersion, changes[0].ToVersion
	defer func() {
		if err != nil {
			err = fmt.Errorf("announcing the changes from graph %s to %s, after %d events: %w", older, newer, emitted, err)
		}
	}()
	client, err := kgo.NewClient(append(slices.Clone(kafka), kgo.TransactionalID("databus.graph-changes."+older+"."+newer), kgo.TransactionTimeout(changesDeadline), kgo.RequiredAcks(kgo.AllISRAcks()))...)
	if err != nil {
		return 0, err
	}
	defer client.Close()
	// From here on whoever was at it before cannot commit any more, so what is there now is all of it.
	if _, _, err := client.ProducerID(ctx); err != nil {
		return 0, err
	}
	there, err := emittedChanges(ctx, kafka, c, older, newer)
	if err != nil {
		return 0, err
	}
	serde := codec.For[event.FcidChange](c, schemas.IdentityChanges)
	var recs []*kgo.Record
	for _, change := range changes {
		fresh := there.missing(&change)
		if fresh == nil {
			continue
		}
		value, err := serde.Encode(ctx, fresh)
		if err != nil {
			return emitted, err
		}
		recs = append(recs, &kgo.Record{Topic: schemas.IdentityChanges, Key: []byte(fresh.FromFcid), Value: value})
	}
	for some := range slices.Chunk(recs, changesAtOnce) {
		if err := client.BeginTransaction(); err != nil {
			return emitted, err
		}
		produced := client.ProduceSync(ctx, some...).FirstErr()
		if err := errors.Join(produced, client.EndTransaction(ctx, kgo.TransactionEndTry(produced == nil))); err != nil {
			return emitted, err
		}
		emitted += len(some)
	}
	return emitted, nil
}

type knownChanges map[changeKey]bool

// missing returns the change with the aliases that are not known, nil where there are none, and notes them.
func (k knownChanges) missing(c *event.FcidChange) *event.FcidChange {
	key := changeKey{kind: c.Kind, from: c.FromFcid, to: c.ToFcid}
	fresh := *c
	fresh.Aliases = []event.PersonAlias{}
	for _, a := range c.Aliases {
		key.account, key.alias = a.Account, a.ToPersonID
		if !k[key] {
			k[key] = true
			fresh.Aliases = append(fresh.Aliases, a)
		}
	}
	if len(fresh.Aliases) == 0 {
		return nil
	}
	return &fresh
}

// emittedChanges reads what was announced between two versions.
func emittedChanges(ctx context.Context, kafka []kgo.Opt, c *codec.Codec, older, newer string) (knownChanges, error) {
	serde := codec.For[event.FcidChange](c, schemas.IdentityChanges)
	known := knownChanges{}
	var failed atomic.Pointer[error]
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f, err := follow.Topic(ctx, kafka, schemas.IdentityChanges, func(rec *kgo.Record) {
		if rec.Value == nil || failed.Load() != nil {
			return
		}
		var e event.FcidChange
		if err := serde.Decode(ctx, rec.Value, &e); err != nil {
			err = fmt.Errorf("partition %d, offset %d of %s: %w", rec.Partition, rec.Offset, rec.Topic, err)
			failed.Store(&err)
			cancel()
			return
		}
		if e.FromVersion == older && e.ToVersion == newer {
			known.missing(&e)
		}
	})
	if err != nil {
		return nil, err
	}
	err = f.Ready(ctx)
	f.Close()
	if cause := failed.Load(); cause != nil {
		err = *cause
	}
	return known, err
}
