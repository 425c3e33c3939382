package stream

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// An instance whose commit gets no answer, because it was replaced meanwhile, says that, and not only that it does not
// know the outcome.
func TestReplacedInTheMiddleOfACommit(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		code *kerr.Error
		says string
	}{{kerr.FencedInstanceID, "has taken over"}, {kerr.UnknownMemberID, "partitions were given away"}} {
		b := newBench(t)
		dir := t.TempDir()
		b.processed(dir, 100)
		cluster := b.stack.Broker.Cluster()
		var replaced atomic.Bool
		cluster.ControlKey(kmsg.EndTxn.Int16(), func(kmsg.Request) (kmsg.Response, error, bool) {
			cluster.KeepControl()
			replaced.Store(true)
			return nil, errors.New("the answer is lost"), true
		})
		cluster.ControlKey(kmsg.Heartbeat.Int16(), func(req kmsg.Request) (kmsg.Response, error, bool) {
			cluster.KeepControl()
			if !replaced.Load() {
				return nil, nil, false
			}
			resp := req.ResponseKind().(*kmsg.HeartbeatResponse)
			resp.ErrorCode = c.code.Code
			return resp, nil, true
		})
		b.events(100)
		o := b.options("0", dir)
		o.Kafka = append(o.Kafka, kgo.RequestRetries(1))
		if err := b.start(o).wait(); !errors.Is(err, ErrFenced) || !errors.Is(err, ErrOutcomeUnknown) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%v: ended with %v", c.code, err)
		}
	}
}
