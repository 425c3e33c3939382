package graph

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"databus/schemas/event"
)

// Kind of an identifier. Smaller kinds are better anchors of a person. In events kinds are known by their symbols.
type Kind uint8

// Kinds in order of priority.
const (
	NationalID Kind = iota
	Email
	Phone
	HashedEmail
	MAID
	Social
	NameBirthdate
	NameAddress
	Composite
	Record
	kinds
)

var kindNames = [kinds]string{
	NationalID:    string(event.IdentifierKindNationalId),
	Email:         string(event.IdentifierKindEmail),
	Phone:         string(event.IdentifierKindPhone),
	HashedEmail:   string(event.IdentifierKindHashedEmail),
	MAID:          string(event.IdentifierKindMaid),
	Social:        string(event.IdentifierKindSocial),
	NameBirthdate: string(event.IdentifierKindNameBirthdate),
	NameAddress:   string(event.IdentifierKindNameAddress),
	Composite:     string(event.IdentifierKindComposite),
	Record:        string(event.IdentifierKindRecord),
}

// String is the kind's symbol in the Avro enum.
func (k Kind) String() string {
	if k >= kinds {
		return fmt.Sprintf("Kind(%d)", uint8(k))
	}
	return kindNames[k]
}

// Identifier is a peppered hash of a normalised identifier: pseudonymous personal data, not to be logged.
type Identifier struct {
	Kind Kind
	Hash [16]byte
}

// Compare orders by kind priority, then hash.
func (i Identifier) Compare(o Identifier) int {
	if c := cmp.Compare(i.Kind, o.Kind); c != 0 {
		return c
	}
	return bytes.Compare(i.Hash[:], o.Hash[:])
}

// MaxIdentifiers is how many identifiers a record or a piece of evidence has at most.
const MaxIdentifiers = 64

// sortIdentifiers sorts, drops repeats and all above MaxIdentifiers but the least ones; a RECORD identifier stays, so
// that every record has one that nothing shares.
func sortIdentifiers(ids []Identifier) []Identifier {
	slices.SortFunc(ids, Identifier.Compare)
	ids = slices.Compact(ids)
	if n := len(ids); n > MaxIdentifiers {
		last := ids[n-1]
		ids = ids[:MaxIdentifiers]
		if last.Kind == Record {
			ids[MaxIdentifiers-1] = last
		}
	}
	return ids
}

// ErrIdentifier: a kind or the length of a hash is not known.
var ErrIdentifier = errors.New("identifier is not valid")

// identifierOf reads an identifier's form in events.
func identifierOf(kind string, hash []byte) (Identifier, error) {
	k := slices.Index(kindNames[:], kind)
	if k < 0 || len(hash) != 16 {
		return Identifier{}, fmt.Errorf("%w: kind %q, hash of %d bytes", ErrIdentifier, kind, len(hash))
	}
	return Identifier{Kind: Kind(k), Hash: [16]byte(hash)}, nil
}

// FromPayload reads the identifiers of a record's payload, sorted.
func FromPayload(in []event.Identifier) ([]Identifier, error) {
	if len(in) > MaxIdentifiers {
		return nil, fmt.Errorf("%w: %d identifiers, at most %d", ErrIdentifier, len(in), MaxIdentifiers)
	}
	out := make([]Identifier, 0, len(in))
	for _, i := range in {
		id, err := identifierOf(string(i.Kind), i.Hash)
		if err != nil {
			return nil, err
		}
		out = append(out, id)
	}
	return sortIdentifiers(out), nil
}

// ToPayload is the form in a record's payload.
func ToPayload(ids []Identifier) []event.Identifier {
	out := make([]event.Identifier, len(ids))
	for i, id := range ids {
		out[i] = event.Identifier{Kind: event.IdentifierKind(id.Kind.String()), Hash: bytes.Clone(id.Hash[:])}
	}
	return out
}

// FromEvidence reads the identifiers of an observation, sorted.
func FromEvidence(in []event.EvidenceIdentifier) ([]Identifier, error) {
	if len(in) > MaxIdentifiers {
		return nil, fmt.Errorf("%w: %d identifiers, at most %d", ErrIdentifier, len(in), MaxIdentifiers)
	}
	out := make([]Identifier, 0, len(in))
	for _, i := range in {
		id, err := identifierOf(string(i.Kind), i.Hash)
		if err != nil {
			return nil, err
		}
		out = append(out, id)
	}
	return sortIdentifiers(out), nil
}

// ToEvidence is the form in an observation.
func ToEvidence(ids []Identifier) []event.EvidenceIdentifier {
	out := make([]event.EvidenceIdentifier, len(ids))
	for i, id := range ids {
		out[i] = event.EvidenceIdentifier{Kind: event.EvidenceIdentifierKind(id.Kind.String()), Hash: bytes.Clone(id.Hash[:])}
	}
	return out
}

// FCID is a person's id in the graph, across accounts.
type FCID [16]byte

// FCIDOf is the FCID of a person with this anchor: the first 16 bytes of SHA-256("databus/fcid/1", kind's symbol, hash).
func FCIDOf(anchor Identifier) FCID {
	var buf [64]byte
	b := append(buf[:0], "databus/fcid/1"...)
	b = append(b, anchor.Kind.String()...)
	b = append(b, anchor.Hash[:]...)
	sum := sha256.Sum256(b)
	return FCID(sum[:16])
}

// String is 32 lower-case hex digits.
func (f FCID) String() string { return hex.EncodeToString(f[:]) }

// ParseFCID reads what String wrote.
func ParseFCID(s string) (FCID, error) {
	var f FCID
	if len(s) != 32 {
		return f, errors.New("an FCID has 32 hex digits")
	}
	if _, err := hex.Decode(f[:], []byte(s)); err != nil {
		return f, errors.New("an FCID has 32 hex digits")
	}
	return f, nil
}

// shared is the FCID that a graph file gives to neutralised identifiers. No anchor hashes to it in practice.
var shared FCID
