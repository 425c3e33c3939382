package seal

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/tink-crypto/tink-go/v2/hybrid"
	"github.com/tink-crypto/tink-go/v2/hybrid/hpke"
	"github.com/tink-crypto/tink-go/v2/insecuresecretdataaccess"
	"github.com/tink-crypto/tink-go/v2/key"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/secretdata"
	"github.com/tink-crypto/tink-go/v2/tink"
)

// PublicKey is ingest's key to which producers seal requests: HPKE (RFC 9180) in base mode with DHKEM(X25519,
// HKDF-SHA256), HKDF-SHA256 and AES-256-GCM. Its JSON form is what producers get; it is no secret.
type PublicKey struct {
	id   string
	key  [32]byte
	once sync.Once
	enc  tink.HybridEncrypt
	err  error
}

const suite = "DHKEM_X25519_HKDF_SHA256/HKDF_SHA256/AES_256_GCM"

type publicKeyJSON struct {
	ID    string `json:"id"`
	Suite string `json:"suite"`
	Key   []byte `json:"public_key"` // base64
}

// ID names the key in requests, so that ingest knows which private key opens them.
func (p *PublicKey) ID() string { return p.id }

// String names the key.
func (p *PublicKey) String() string {
	return p.id + " " + base64.StdEncoding.EncodeToString(p.key[:])
}

// MarshalJSON is the form in which producers get the key.
func (p *PublicKey) MarshalJSON() ([]byte, error) {
	return json.Marshal(publicKeyJSON{ID: p.id, Suite: suite, Key: p.key[:]})
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (p *PublicKey) UnmarshalJSON(data []byte) error {
	var j publicKeyJSON
	if err := json.Unmarshal(data, &j); err != nil {
		return fmt.Errorf("reading public key: %w", err)
	}
	if j.Suite != suite {
		return fmt.Errorf("reading public key: suite is %q, not %s", j.Suite, suite)
	}
	if len(j.Key) != 32 || j.ID == "" {
		return errors.New("reading public key: it needs an id and 32 bytes in base64")
	}
	p.id, p.key = j.ID, [32]byte(j.Key)
	return nil
}

// SealRequest seals a customer record (its Avro bytes) for one request of one account.
func (p *PublicKey) SealRequest(account, requestID string, record []byte) ([]byte, error) {
	p.once.Do(func() { p.enc, p.err = p.encrypter() })
	if p.err != nil {
		return nil, fmt.Errorf("sealing request: %w", p.err)
	}
	out, err := p.enc.Encrypt(record, requestInfo(account, requestID))
	if err != nil {
		return nil, fmt.Errorf("sealing request: %w", err)
	}
	return out, nil
}

// RequestOpener opens what was sealed to one key pair.
type RequestOpener struct {
	id  string
	dec tink.HybridDecrypt
}

// RequestOpener returns the opener of requests sealed to k's public key.
func (k *Keys) RequestOpener() (*RequestOpener, error) {
	params, err := hpkeParameters()
	if err != nil {
		return nil, err
	}
	scalar := secretdata.NewBytesFromData(k.hpke[:], insecuresecretdataaccess.Token{})
	private, err := hpke.NewPrivateKey(scalar, 0, params)
	if err != nil {
		return nil, fmt.Errorf("setting up HPKE: %w", err)
	}
	handle, err := handleOf(private)
	if err != nil {
		return nil, err
	}
	dec, err := hybrid.NewHybridDecrypt(handle)
	if err != nil {
		return nil, fmt.Errorf("setting up HPKE: %w", err)
	}
	return &RequestOpener{id: k.hpkeID, dec: dec}, nil
}

// Open returns the customer record's Avro bytes. recipientKeyID is the one in the request. Errors: ErrWrongRecipient,
// ErrTampered.
func (o *RequestOpener) Open(recipientKeyID, account, requestID string, sealed []byte) ([]byte, error) {
	if recipientKeyID != o.id {
		return nil, fmt.Errorf("opening request: %w", ErrWrongRecipient)
	}
	out, err := o.dec.Decrypt(sealed, requestInfo(account, requestID))
	if err != nil {
		return nil, fmt.Errorf("opening request: %w", ErrTampered)
	}
	return out, nil
}

func requestInfo(account, requestID string) []byte {
	b := append([]byte("databus/request/1"), 0)
	b = binary.BigEndian.AppendUint32(b, uint32(len(account)))
	b = append(b, account...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(requestID)))
	return append(b, requestID...)
}

func hpkeParameters() (*hpke.Parameters, error) {
	params, err := hpke.NewParameters(hpke.ParametersOpts{
		KEMID: hpke.DHKEM_X25519_HKDF_SHA256, KDFID: hpke.HKDFSHA256, AEADID: hpke.AES256GCM,
		Variant: hpke.VariantNoPrefix, // plain RFC 9180: encapsulated key, then ciphertext
	})
	if err != nil {
		return nil, fmt.Errorf("setting up HPKE: %w", err)
	}
	return params, nil
}

func (p *PublicKey) encrypter() (tink.HybridEncrypt, error) {
	params, err := hpkeParameters()
	if err != nil {
		return nil, err
	}
	public, err := hpke.NewPublicKey(p.key[:], 0, params)
	if err != nil {
		return nil, fmt.Errorf("setting up HPKE: %w", err)
	}
	handle, err := handleOf(public)
	if err != nil {
		return nil, err
	}
	return hybrid.NewHybridEncrypt(handle)
}

// handleOf wraps one key in a key set, which is how Tink takes keys.
func handleOf(k key.Key) (*keyset.Handle, error) {
	manager := keyset.NewManager()
	id, err := manager.AddKey(k)
	if err != nil {
		return nil, fmt.Errorf("setting up HPKE: %w", err)
	}
	if err := manager.SetPrimary(id); err != nil {
		return nil, fmt.Errorf("setting up HPKE: %w", err)
	}
	handle, err := manager.Handle()
	if err != nil {
		return nil, fmt.Errorf("setting up HPKE: %w", err)
	}
	return handle, nil
}
