//go:build servers

package seal

import (
	"errors"
	"net"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/embedded"
	"databus/pkg/seal"
	"databus/pkg/seal/kmstest"
	"databus/pkg/service"
	"databus/pkg/topics"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
	"databus/test/process"
	"databus/test/pytool"
)

const region = "eu-central-1"

// startKMS starts moto and returns it, its address, and a client for what only KMS's owner does.
func startKMS(t *testing.T) (moto *process.Program, endpoint string, owner *kms.Client) {
	t.Helper()
	python, err := pytool.Interpreter(t.Context(), "moto.txt")
	must(t, err)
	address, err := process.FreeAddress()
	must(t, err)
	host, port, err := net.SplitHostPort(address)
	must(t, err)
	kmstest.Credentials(t)
	moto = &process.Program{Name: "moto", Log: filepath.Join(t.TempDir(), "moto.log")}
	must(t, moto.Start(exec.Command(python, "-m", "moto.server", "-H", host, "-p", port)))
	t.Cleanup(func() { must(t, moto.Kill()) })
	endpoint = "http://" + address
	owner = kms.New(kms.Options{BaseEndpoint: &endpoint, Region: region, Credentials: credentials.NewStaticCredentialsProvider("test", "test", "")})
	for began := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		_, err := owner.ListKeys(t.Context(), &kms.ListKeysInput{})
		if err == nil {
			return moto, endpoint, owner
		}
		if alive := moto.Alive(); alive != nil || time.Since(began) > 2*time.Minute {
			t.Fatal(errors.Join(err, alive, errors.New(moto.Tail())))
		}
	}
}

func newKey(t *testing.T, owner *kms.Client) (arn string) {
	t.Helper()
	made, err := owner.CreateKey(t.Context(), &kms.CreateKeyInput{})
	must(t, err)
	return aws.ToString(made.KeyMetadata.Arn)
}

// A key file and data keys wrapped by KMS: another process with the same KMS opens what was sealed, one with another key does not,
// and while KMS is away nobody starts and no further key is unwrapped.
func TestKMS(t *testing.T) {
	moto, endpoint, owner := startKMS(t)
	arn, other := newKey(t, owner), newKey(t, owner)
	with := func(arn string) seal.AWSKMS { return seal.AWSKMS{URI: "aws-kms://" + arn, Endpoint: endpoint} }
	file := filepath.Join(t.TempDir(), "keys.json")
	keys, err := seal.GenerateWrapped(t.Context(), file, with(arn))
	must(t, err)
	open := keyrings(t)

	writer := open(keys)
	_, err = writer.Rotate(t.Context(), "per-record", seal.RecordScope)
	must(t, err)
	var sealed []*event.DatabusRecord
	for _, account := range []string{"whole", "per-record"} {
		sealed = append(sealed, record(t, writer, account, "a secret of "+account))
	}
	opens := func(what string, ring *seal.Keyring) {
		t.Helper()
		for _, rec := range sealed {
			if got, err := ring.Open(t.Context(), nil, rec); err != nil || string(got) != "a secret of "+rec.Account {
				t.Errorf("%s: %s: %q, %v", what, rec.Account, got, err)
			}
		}
	}
	again, err := seal.Load(t.Context(), file, seal.AWSKMS{Endpoint: endpoint}) // the file names its key
	must(t, err)
	if again.Plain() {
		t.Error("the file's secrets are plain")
	}
	opens("another process", open(again))

	plain := filepath.Join(t.TempDir(), "plain.json")
	_, err = seal.Generate(plain)
	must(t, err)
	must(t, seal.Wrap(t.Context(), plain, with(other)))
	strange, err := seal.Load(t.Context(), plain, seal.AWSKMS{Endpoint: endpoint})
	must(t, err)
	for _, rec := range sealed {
		if got, err := open(strange).Open(t.Context(), nil, rec); !errors.Is(err, seal.ErrWrongKEK) {
			t.Errorf("under another key of KMS: %q, %v", got, err)
		}
	}

	fresh := open(again)
	must(t, moto.Kill())
	if _, err := seal.Load(t.Context(), file, seal.AWSKMS{Endpoint: endpoint}); !errors.Is(err, seal.ErrKEKUnavailable) {
		t.Errorf("loading while KMS is away: %v", err)
	}
	if got, err := fresh.Open(t.Context(), nil, sealed[0]); !errors.Is(err, seal.ErrKEKUnavailable) {
		t.Errorf("opening while KMS is away: %q, %v", got, err)
	}
	opens("unwrapped before", writer)
}

// keyrings opens keyrings on one keys.events.
func keyrings(t *testing.T) func(*seal.Keys) *seal.Keyring {
	t.Helper()
	stack, err := embedded.StartStack(embedded.StackOptions{})
	must(t, err)
	t.Cleanup(func() { must(t, stack.Close()) })
	opts := []kgo.Opt{kgo.SeedBrokers(stack.Broker.Seeds()...), kgo.RecordPartitioner(service.Partitioner())}
	client, err := kgo.NewClient(opts...)
	must(t, err)
	defer client.Close()
	_, err = topics.Apply(t.Context(), kadm.NewClient(client), []schemas.Topic{schemas.MustLookup(schemas.KeysEvents)}, topics.Options{})
	must(t, err)
	c := codec.New(codec.NewRegistry(stack.Registry.URL()), codec.Options{RegisterSchemas: true})
	return func(keys *seal.Keys) *seal.Keyring {
		t.Helper()
		ring, err := seal.OpenKeyring(t.Context(), seal.Options{Kafka: opts, Codec: c, Keys: keys})
		must(t, err)
		t.Cleanup(ring.Close)
		must(t, ring.CaughtUp(t.Context()))
		return ring
	}
}

func record(t *testing.T, ring *seal.Keyring, account, payload string) *event.DatabusRecord {
	t.Helper()
	rec := &event.DatabusRecord{Account: account, RecordKey: "00112233445566778899aabbccddeeff", PayloadSchema: []byte("12345678")}
	key, err := ring.Sealer(t.Context(), account, rec.RecordKey)
	must(t, err)
	rec.KeyID = key.ID()
	rec.Sealed = key.Seal(nil, rec.RecordKey, rec.PayloadSchema, []byte(payload))
	return rec
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
