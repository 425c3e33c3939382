// Package oracle compares what we write with what strangers' libraries read and write.
package oracle

import (
	"bytes"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	hamba "github.com/hamba/avro/v2"
	"github.com/twmb/avro"

	"databus/schemas"
	"databus/schemas/event"
)

// types maps each schema to its generated Go type.
var types = map[string]any{
	"archive_file": event.ArchiveFile{}, "baseline": event.Baseline{}, "baseline_request": event.BaselineRequest{},
	"catchup_event": event.CatchupEvent{}, "catchup_request": event.CatchupRequest{}, "catchup_result": event.CatchupResult{}, "catchup_task": event.CatchupTask{},
	"changelog_entry": event.ChangelogEntry{}, "contract": event.Contract{}, "customer_record": event.CustomerRecord{},
	"database_version": event.DatabaseVersion{}, "databus_record": event.DatabusRecord{}, "fcid_change": event.FcidChange{},
	"graph_version": event.GraphVersion{}, "job_state": event.JobState{}, "key_event": event.KeyEvent{}, "limit_state": event.LimitState{},
	"observation": event.Observation{}, "rebuild_event": event.RebuildEvent{}, "rebuild_request": event.RebuildRequest{},
	"rebuild_result": event.RebuildResult{}, "rebuild_task": event.RebuildTask{}, "record_payload": event.RecordPayload{},
	"resolution": event.Resolution{}, "resolve_request": event.ResolveRequest{}, "usage_count": event.UsageCount{},
	"usage_event": event.UsageEvent{}, "usage_threshold": event.ThresholdEvent{},
}

// TestHambaAgrees writes random events of every schema with both libraries: the bytes are equal, and each reads the
// other's back to the same event. Maps hold one entry at most, because their order on the wire is free.
func TestHambaAgrees(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	// By default hamba writes an array's size in bytes beside its count, which Avro allows and nobody else does.
	plain := hamba.Config{DisableBlockSizeHeader: true}.Freeze()
	for _, name := range schemas.Schemas() {
		zero, ok := types[name]
		if !ok {
			t.Errorf("schema %s is not compared: name its type here", name)
			continue
		}
		text, _ := schemas.Avro(name)
		ours, theirs := avro.MustParse(text), hamba.MustParse(text)
		symbols := map[string][]string{}
		collectSymbols(ours.Root(), symbols)
		for range 50 {
			v := reflect.New(reflect.TypeOf(zero))
			fill(r, v.Elem(), symbols)
			a, err := ours.AppendEncode(nil, v.Interface())
			if err != nil {
				t.Fatalf("%s: encoding: %v", name, err)
			}
			b, err := plain.Marshal(theirs, v.Interface())
			if err != nil {
				t.Fatalf("%s: hamba encoding: %v", name, err)
			}
			if !bytes.Equal(a, b) {
				t.Fatalf("%s: bytes differ\nours   %x\ntheirs %x", name, a, b)
			}
			mine, other := reflect.New(reflect.TypeOf(zero)), reflect.New(reflect.TypeOf(zero))
			if _, err := ours.Decode(b, mine.Interface()); err != nil {
				t.Fatalf("%s: decoding: %v", name, err)
			}
			if err := plain.Unmarshal(theirs, a, other.Interface()); err != nil {
				t.Fatalf("%s: hamba decoding: %v", name, err)
			}
			for _, back := range []reflect.Value{mine, other} {
				again, err := ours.AppendEncode(nil, back.Interface())
				if err != nil || !bytes.Equal(again, a) {
					t.Fatalf("%s: what was read back encodes to %x, %v; want %x", name, again, err, a)
				}
			}
		}
	}
}

// collectSymbols gathers the symbols of every enum under the Go name that avrogen gives its type.
func collectSymbols(n *avro.SchemaNode, into map[string][]string) {
	if n == nil {
		return
	}
	if n.Type == "enum" {
		into[n.Name] = n.Symbols
	}
	for i := range n.Fields {
		collectSymbols(&n.Fields[i].Type, into)
	}
	for i := range n.Branches {
		collectSymbols(&n.Branches[i], into)
	}
	collectSymbols(n.Items, into)
	collectSymbols(n.Values, into)
}

func fill(r *rand.Rand, v reflect.Value, symbols map[string][]string) {
	if v.Type() == reflect.TypeFor[time.Time]() {
		v.Set(reflect.ValueOf(time.UnixMicro(r.Int64N(4e15) - 1e15).UTC()))
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(r, v.Field(i), symbols)
		}
	case reflect.Pointer:
		if r.IntN(3) > 0 {
			v.Set(reflect.New(v.Type().Elem()))
			fill(r, v.Elem(), symbols)
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			b := make([]byte, r.IntN(40))
			for i := range b {
				b[i] = byte(r.Uint32())
			}
			v.SetBytes(b)
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), r.IntN(4), 4))
		for i := range v.Len() {
			fill(r, v.Index(i), symbols)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		if r.IntN(2) == 0 {
			v.SetMapIndex(reflect.ValueOf("clé"), reflect.ValueOf("välue"))
		}
	case reflect.String:
		if s, ok := symbols[v.Type().Name()]; ok {
			v.SetString(s[r.IntN(len(s))])
			return
		}
		v.SetString([]string{"", "a", "Ünïcode €", "acme-travel", string(bytes.Repeat([]byte("x"), 200))}[r.IntN(5)])
	case reflect.Bool:
		v.SetBool(r.IntN(2) == 0)
	case reflect.Int32:
		v.SetInt(int64(int32(r.Uint32())))
	case reflect.Int64:
		v.SetInt(int64(r.Uint64()))
	case reflect.Float64:
		v.SetFloat(r.NormFloat64())
	default:
		panic("no random value for " + v.Type().String())
	}
}
