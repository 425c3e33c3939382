package seal

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"databus/pkg/internal/kafkatest"
	"databus/schemas"
)

// A keyring ends although the brokers have stopped to answer: its name stays on keys.events, and is waited for until its lease
// is over.
func TestCloseWhileTheBrokersAreSilent(t *testing.T) {
	bed := kafkatest.New(t, schemas.KeysEvents)
	keys, _ := generate(t)
	k := openHolder(t, bed, keys, "ingest.0", time.Minute, nil)
	release := make(chan struct{})
	defer close(release)
	asked := make(chan struct{}, 100)
	bed.Cluster.ControlKey(kmsg.Produce.Int16(), func(kmsg.Request) (kmsg.Response, error, bool) {
		bed.Cluster.KeepControl()
		asked <- struct{}{}
		bed.Cluster.SleepControl(func() { <-release })
		return nil, nil, false
	})
	closed := make(chan struct{})
	go func() { k.Close(); close(closed) }()
	select {
	case <-closed:
	case <-time.After(20 * time.Second): // the client alone would wait for a minute and more
		t.Fatal("the keyring does not end")
	}
	select {
	case <-asked:
	default:
		t.Error("the broker was not asked: nothing was tested")
	}
}
