package ingest

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// A breaker keeps calls away from Kafka while it does not acknowledge. Without it each call would wait for its whole time,
// and what an idempotent producer may not give up would pile up in its buffer. After so many failures in a row it is open:
// calls are refused at once, but one in each pause, whose success closes it.
type breaker struct {
	failures int           // in a row, that open it
	pause    time.Duration // between two trials
	now      func() time.Time
	open     prometheus.Gauge

	mu    sync.Mutex
	count int
	trial time.Time // when the next trial may start, while open
}

const (
	breakerFailures = 3
	breakerPause    = time.Second
)

func newBreaker(open prometheus.Gauge) *breaker {
	return &breaker{failures: breakerFailures, pause: breakerPause, now: time.Now, open: open}
}

// allow says whether a record may be sent. Who was allowed tells report what came of it, or nothing.
func (b *breaker) allow() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.count < b.failures {
		return true
	}
	now := b.now()
	if now.Before(b.trial) {
		return false
	}
	b.trial = now.Add(b.pause)
	return true
}

// refuses is allow for somebody who has nothing to send yet.
func (b *breaker) refuses() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.count >= b.failures && b.now().Before(b.trial)
}

// report takes the outcome of a record that was sent: acknowledged, or not by Kafka's fault.
func (b *breaker) report(acknowledged bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if acknowledged {
		b.count = 0
		b.open.Set(0)
		return
	}
	if b.count++; b.count >= b.failures {
		b.trial = b.now().Add(b.pause)
		b.open.Set(1)
	}
}

// errKafkaAway refuses a record that was not sent.
var errKafkaAway = unavailable("the Databus does not take records at the moment; send it again with the same request_id")
