package seal

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/follow"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

// Shredded says which accounts and records were shredded, for those who hold no keys.
type Shredded struct {
	accounts map[string]bool
	records  map[string]bool // account/record key
}

// ReadShredded reads keys.events to its end now.
func ReadShredded(ctx context.Context, kafka []kgo.Opt, c *codec.Codec) (*Shredded, error) {
	type key struct {
		account string
		kind    event.KeyEventKind
	}
	serde := codec.For[event.KeyEvent](c, schemas.KeysEvents)
	keys, records := map[string]key{}, map[string]bool{}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f, err := follow.Topic(ctx, kafka, schemas.KeysEvents, func(rec *kgo.Record) {
		if rec.Value == nil {
			return
		}
		ev, ok := decode(ctx, serde, rec, slog.New(slog.DiscardHandler))
		switch {
		case !ok:
		case ev.Kind == event.KeyEventKindRevoked && ev.RecordKey != "":
			records[ev.Account+"/"+ev.RecordKey] = true
		case ev.RecordKey != "":
		case ev.Kind == event.KeyEventKindCreated, ev.Kind == event.KeyEventKindRotated, ev.Kind == event.KeyEventKindRevoked:
			if keys[ev.KeyID].kind != event.KeyEventKindRevoked {
				keys[ev.KeyID] = key{ev.Account, ev.Kind}
			}
		}
	})
	if err != nil {
		return nil, fmt.Errorf("reading who was shredded: %w", err)
	}
	err = f.Ready(ctx)
	f.Close()
	if err != nil {
		return nil, fmt.Errorf("reading who was shredded: %w", err)
	}
	s := &Shredded{accounts: map[string]bool{}, records: records}
	for _, k := range keys {
		if k.kind == event.KeyEventKindRevoked {
			s.accounts[k.account] = true
		}
	}
	for _, k := range keys {
		if k.kind != event.KeyEventKindRevoked {
			delete(s.accounts, k.account)
		}
	}
	return s, nil
}

// Account says whether all keys of an account are revoked.
func (s *Shredded) Account(account string) bool { return s.accounts[account] }

// Record says whether a record was shredded, by itself or with its account.
func (s *Shredded) Record(account, recordKey string) bool {
	return s.accounts[account] || s.records[account+"/"+recordKey]
}

// Evidence says whether a piece of evidence comes from an account or a record that was shredded; a record's evidence has the
// id account/record key.
func (s *Shredded) Evidence(source, evidenceID string) bool {
	return s.accounts[source] || s.records[evidenceID]
}

// None says that there is nothing that was shredded.
func (s *Shredded) None() bool { return len(s.accounts)+len(s.records) == 0 }
