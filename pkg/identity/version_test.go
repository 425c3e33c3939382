package identity

import (
	"bytes"
	"testing"

	"github.com/twmb/avro"

	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

// Records that were sealed before composites came are read by the present schema.
func TestPayloadBeforeComposites(t *testing.T) {
	now, ok := schemas.Avro("record_payload")
	if !ok {
		t.Fatal("no schema")
	}
	at := bytes.Index([]byte(now), []byte(`"RECORD"`))
	end := at + bytes.IndexByte([]byte(now)[at:], ']')
	before := avro.MustParse(now[:at] + `"RECORD"` + now[end:])
	if got := before.Fingerprint(avro.NewRabin()); string(got) != payloadBeforeComposites {
		t.Fatalf("the fingerprint is %x", got)
	}
	want := event.RecordPayload{RecordID: "r1", Fields: map[string]string{"a": "b"}, Identifiers: []event.Identifier{
		{Kind: event.IdentifierKindNameAddress, Hash: make([]byte, 16)}, {Kind: event.IdentifierKindRecord, Hash: make([]byte, 16)}}}
	b, err := before.AppendEncode(nil, &want)
	if err != nil {
		t.Fatal(err)
	}
	var got event.RecordPayload
	if err := codec.ForEmbedded[event.RecordPayload]("record_payload").Decode(b, &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Identifiers) != 2 || got.Identifiers[0].Kind != event.IdentifierKindNameAddress || got.Identifiers[1].Kind != event.IdentifierKindRecord || got.RecordID != "r1" {
		t.Errorf("%+v", got)
	}
}
