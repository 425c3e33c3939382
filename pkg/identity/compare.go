package identity

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strings"
)

// Comparison is the result of Compare.
type Comparison struct {
	// Rows that at least one of the stores has, over all three tables.
	Rows int64
	// Differences is how many of them differ or are missing in one store.
	Differences int64
	// Diffs describes the first of them.
	Diffs []Diff
}

// Equal says that there is no difference.
func (c *Comparison) Equal() bool { return c.Differences == 0 }

// Diff describes a row that is not the same in both stores, without anything that was sealed. Record keys are cut: they
// are pseudonyms.
type Diff struct {
	Table, Account, RecordKey string
	// OnlyIn is "a" or "b" when the other store has no such row.
	OnlyIn string
	// Columns that differ, when both have it.
	Columns []string
	// VersionA and VersionB are zero where the row is missing.
	VersionA, VersionB int64
}

func (d Diff) String() string {
	where := fmt.Sprintf("%s, account %s, record %s…", d.Table, d.Account, d.RecordKey)
	if d.OnlyIn != "" {
		return fmt.Sprintf("%s: only in %s, version %d", where, d.OnlyIn, max(d.VersionA, d.VersionB))
	}
	return fmt.Sprintf("%s: %s differ, versions %d and %d", where, strings.Join(d.Columns, ", "), d.VersionA, d.VersionB)
}

// maxDiffs is how many differences are described.
const maxDiffs = 20

// Compare compares all columns of all rows of all three tables of two stores, to which nobody should be writing. It
// takes about 100 bytes of memory for each row of one table, wherever the stores are.
func Compare(ctx context.Context, a, b Store) (*Comparison, error) {
	c := &Comparison{}
	for _, t := range Tables() {
		if err := c.table(ctx, t, a, b); err != nil {
			return nil, fmt.Errorf("comparing %s: %w", t.Name, err)
		}
	}
	return c, nil
}

type digest [16]byte

// digests of a row's key and of all of its columns.
func (t Table) digests(r *Row) (key, all digest) {
	var b []byte
	for i, c := range t.Columns {
		if i == len(t.Key()) {
			sum := sha256.Sum256(b)
			key = digest(sum[:16])
		}
		v := c.Value(r)
		size := uint64(0)
		if v != nil {
			size = uint64(len(v)) + 1
		}
		b = binary.AppendUvarint(b, size)
		b = append(b, v...)
	}
	sum := sha256.Sum256(b)
	return key, digest(sum[:16])
}

func (c *Comparison) table(ctx context.Context, t Table, a, b Store) error {
	rows := map[digest]digest{} // of a, those that b has not shown yet
	err := a.Scan(ctx, t, func(r *Row) error {
		key, all := t.digests(r)
		if _, ok := rows[key]; ok {
			return fmt.Errorf("store a has a row twice (version %d)", r.Version)
		}
		rows[key] = all
		c.Rows++
		return nil
	})
	if err != nil {
		return err
	}
	differ := map[digest]Row{} // of b; a has another one
	err = b.Scan(ctx, t, func(r *Row) error {
		key, all := t.digests(r)
		other, ok := rows[key]
		delete(rows, key)
		switch {
		case !ok:
			c.Rows++
			c.Differences++
			if len(c.Diffs) < maxDiffs {
				c.Diffs = append(c.Diffs, Diff{Table: t.Name, Account: r.Account, RecordKey: r.RecordKey[:8], OnlyIn: "b", VersionB: r.Version})
			}
		case other != all:
			c.Differences++
			if len(differ) < maxDiffs {
				differ[key] = *r
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	c.Differences += int64(len(rows))
	if len(rows) == 0 && len(differ) == 0 {
		return nil
	}
	// Only digests of a are known; its rows are read again to say what is different.
	return a.Scan(ctx, t, func(r *Row) error {
		key, _ := t.digests(r)
		d := Diff{Table: t.Name, Account: r.Account, RecordKey: r.RecordKey[:8], VersionA: r.Version}
		if _, missing := rows[key]; missing {
			d.OnlyIn = "a"
		} else if other, ok := differ[key]; ok {
			d.VersionB = other.Version
			for _, column := range t.Columns {
				if !bytes.Equal(column.Value(r), column.Value(&other)) {
					d.Columns = append(d.Columns, column.Name)
				}
			}
		} else {
			return nil
		}
		if len(c.Diffs) < maxDiffs {
			c.Diffs = append(c.Diffs, d)
		}
		return nil
	})
}
