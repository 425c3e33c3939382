package usageaggregator

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/stream"
	"databus/pkg/usage"
)

// The store of bounds holds a usage.AccountBounds in JSON for each account that has, or had, a contract, and under
// firstKey the append time of the first event that the partition counted, and its offset.
const firstKey = "/"

// begin notes the first event of the partition: what was appended before it nobody has counted.
func (p *partition) begin(tx *stream.Tx, rec *kgo.Record) error {
	first, err := p.since(tx)
	if err != nil {
		return err
	}
	if first == nil {
		v := int64(usage.BeforeAll)
		if rec.Offset > 0 {
			v = rec.Timestamp.UnixMicro()
		}
		first = &v
		p.known = rec.Offset
		tx.Put(storeBounds, []byte(firstKey), binary.AppendVarint(binary.AppendVarint(nil, v), rec.Offset))
	}
	p.first = first
	// Accounts that were asked for before, by a contract in the same batch, do not know it yet.
	p.forget()
	return nil
}

// since is the append time of the first event of the partition, usage.BeforeAll where that is the first one of the topic,
// and nil before any event.
func (p *partition) since(tx *stream.Tx) (*int64, error) {
	if p.first != nil {
		return p.first, nil
	}
	row, err := tx.Get(storeBounds, []byte(firstKey))
	if err != nil || row == nil {
		return nil, err
	}
	v, n := binary.Varint(row)
	if n <= 0 {
		return nil, errors.New("reading when counting began: the row is cut off")
	}
	p.known, _ = binary.Varint(row[n:]) // older rows do not have it
	return &v, nil
}

func (p *partition) bounds(tx *stream.Tx, account string) (usage.AccountBounds, error) {
	var b usage.AccountBounds
	first, err := p.since(tx)
	if err != nil {
		return b, err
	}
	since := int64(usage.BeforeAll)
	if first != nil {
		since = *first
	}
	row, err := tx.Get(storeBounds, []byte(account))
	if err != nil {
		return b, err
	}
	if row == nil {
		return usage.NewAccountBounds(since), nil
	}
	if err := json.Unmarshal(row, &b); err != nil {
		return b, fmt.Errorf("reading the bounds of an account: %w", err)
	}
	return b.From(since), nil
}

// change puts new terms of an account into force.
func (p *partition) change(tx *stream.Tx, name string, a *account, terms *usage.Terms) error {
	p.settle()
	newest, counted, err := p.newest(tx, a)
	if err != nil {
		return err
	}
	a.bounds.Change(terms, counted, newest)
	a.terms = terms
	a.dropSlots()
	return p.keepBounds(tx, name, &a.bounds)
}

func (p *partition) keepBounds(tx *stream.Tx, account string, b *usage.AccountBounds) error {
	row, err := json.Marshal(b)
	if err != nil {
		return fmt.Errorf("keeping the bounds of an account: %w", err)
	}
	tx.Put(storeBounds, []byte(account), row)
	return nil
}

// newest is the append time of the newest event of an account that was counted, in microseconds since 1970, and false where none was.
func (p *partition) newest(tx *stream.Tx, a *account) (int64, bool, error) {
	row, ok, err := p.find(tx, a, usage.AllPacks, usage.Total().ID)
	if err != nil || !ok || a.rows[row].fresh {
		return 0, false, err
	}
	return a.rows[row].updated, true, nil
}
