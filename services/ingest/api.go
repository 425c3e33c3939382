package ingest

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/limits"
	"databus/pkg/seal"
	"databus/pkg/service"
	"databus/pkg/usage"
	"databus/schemas"
	"databus/schemas/event"
)

// Data packs under which the API's own calls are counted.
const (
	packLookup = "lookup"  // GET: status 200 where something was found, else 404
	packWrite  = "resolve" // POST, DELETE: one a record, batch or not
)

// api is the HTTP front. It lives as long as Run.
type api struct {
	*Service
	producer *kgo.Client
	admin    *kadm.Client
	limits   *limits.View
	usage    *usage.Producer
	public   *seal.PublicKey
	breaker  *breaker
	stopping context.Context // done when the service is asked to stop: no call should wait any longer than it must
}

// serveAPI serves the API until ctx is done and running calls have finished, then flushes what they produced.
func (s *Service) serveAPI(ctx context.Context) (err error) {
	check := s.env.Health.Register("api")
	a := &api{Service: s, stopping: ctx, public: s.public, breaker: newBreaker(s.metrics.kafkaAway)}
	// The front outlives ctx: calls that are running when the service is asked to stop are answered.
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	if a.producer, err = s.newProducer(); err != nil {
		return err
	}
	defer a.producer.Close()
	a.admin = kadm.NewClient(a.producer)
	if a.limits, err = s.limitsView(work); err != nil {
		return err
	}
	defer a.limits.Close()
	if a.usage, err = s.usageProducer(); err != nil {
		return err
	}
	if err := s.records.Ready(ctx); err != nil {
		_ = a.usage.Close(ctx) // it has nothing to send
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("preparing the API: %w", err)
	}
	s.env.Log.Info("serving", "api", s.listener.Addr().String())
	check.Set(true, "")
	context.AfterFunc(ctx, func() { check.Set(false, "stopping") })
	served := service.Serve(ctx, s.listener, a.routes(), s.env.DrainTimeout/2, s.env.Log)
	flush, stop := context.WithTimeout(work, s.env.DrainTimeout/4)
	defer stop()
	return errors.Join(served, a.usage.Close(flush))
}

// A handler answers, or returns the problem that is the answer.
type handler func(w http.ResponseWriter, r *http.Request, account string) *problem

func invalidAccount() *problem {
	return badRequest("account", "an account is 1 to 64 characters of [A-Za-z0-9._-]")
}

// admit says whether a call may go on: a valid account, and a known key with the scope.
func (a *api) admit(r *http.Request, account, scope string) *problem {
	if !schemas.ValidAccount(account) {
		return invalidAccount()
	}
	return a.keys.allow(r, account, scope)
}

// used emits the usage event of one record or look-up; it never blocks. An id is given where a repeat must not count
// twice.
func (a *api) used(id, account, pack, endpoint string, status int) {
	if id == "" {
		id = uuid.NewString()
	}
	a.usage.Emit(event.UsageEvent{EventID: id, Account: account, Pack: pack, Endpoint: endpoint, Status: int32(status), Quantity: 1, OccurredAt: time.Now()})
}

// usageID names the usage event of a record by its request, so that a request sent again, alone or in whatever batch,
// is the same event.
func usageID(account, request string) string {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(account)))
	sum := sha256.Sum256(append(append(b, account...), request...))
	return hex.EncodeToString(sum[:16])
}
