package verify

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"slices"
)

// pepper derives every pseudonym.
type pepper []byte

func readPepper(keyFile string) (pepper, error) {
	b, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, err
	}
	var f struct {
		Pepper string `json:"pepper"`
	}
	if err := json.Unmarshal(b, &f); err != nil {
		return nil, err
	}
	p, err := hex.DecodeString(f.Pepper)
	if err != nil || len(p) != 32 {
		return nil, fmt.Errorf("the key file's pepper is not 32 bytes in hex")
	}
	return p, nil
}

func (p pepper) derive(label, account string) []byte {
	b, err := hkdf.Key(sha256.New, p, nil, label+"\x00"+account, 32)
	if err != nil {
		panic(err) // the length is a constant
	}
	return b
}

func sign(key []byte, text ...string) []byte {
	mac := hmac.New(sha256.New, key)
	for _, s := range text {
		mac.Write([]byte(s))
	}
	return mac.Sum(nil)[:16]
}

func (p pepper) recordKey(account, recordID string) string {
	return hex.EncodeToString(sign(p.derive("databus/account-key/1", account), recordID))
}

// identifier is a kind and the hash of a value.
type identifier struct {
	kind string
	hash string // 16 bytes
}

// kinds in order of their priority as anchors.
var kinds = []string{"NATIONAL_ID", "EMAIL", "PHONE", "HASHED_EMAIL", "MAID", "SOCIAL", "NAME_BIRTHDATE", "NAME_ADDRESS", "RECORD"}

// identifiers of a record, the best anchor first; the last one is the record's own.
func (p pepper) identifiers(account, recordKey string, fields map[string]string) []identifier {
	key := p.derive("databus/identifier-pepper/1", "")
	var all []identifier
	add := func(kind, value string) { all = append(all, identifier{kind, string(sign(key, kind, "\x00", value))}) }
	if v := fields["national_id"]; v != "" {
		add("NATIONAL_ID", v)
	}
	if v := fields["email"]; v != "" {
		add("EMAIL", v)
		sum := sha256.Sum256([]byte(v))
		add("HASHED_EMAIL", hex.EncodeToString(sum[:]))
	}
	if v := fields["phone"]; v != "" {
		add("PHONE", v)
	}
	add("RECORD", account+"/"+recordKey)
	slices.SortFunc(all, func(a, b identifier) int { return slices.Index(kinds, a.kind) - slices.Index(kinds, b.kind) })
	return all
}

// person of a record under a graph that knows nobody: its own best identifier is the anchor.
func (p pepper) person(account string, ids []identifier) (fcid, personID string) {
	sum := sha256.Sum256([]byte("databus/fcid/1" + ids[0].kind + ids[0].hash))
	f := sum[:16]
	id := sign(p.derive("databus/account-id-key/1", account), string(f))
	id[6], id[8] = id[6]&0x0f|0x80, id[8]&0x3f|0x80
	h := hex.EncodeToString(id)
	return hex.EncodeToString(f), h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}
