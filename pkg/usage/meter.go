package usage

import (
	"crypto/rand"
	"net/http"
	"time"

	"databus/schemas/event"
)

// Meter is HTTP middleware that makes one usage event of a call. It never holds a call up: what the producer cannot take
// is dropped and counted there.
type Meter struct {
	Producer *Producer
	// Account and Pack say whose call it is and to what. A call without account or pack is not counted.
	Account, Pack func(*http.Request) string
	// EventID returns the id of the event, the same for a call that a client repeats, such as its idempotency key. Nil, or
	// an id that is empty or longer than MaxEventID, means a random one, so that repeats count again.
	EventID func(*http.Request) string
}

// Wrap puts the meter in front of a handler. Calls that end with a 2xx count as matched (status 200), with 404 as not
// matched; others, such as refusals and failures, are not billable and make no event. The event is made when the handler
// has returned, with the time at which the call began.
func (m Meter) Wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		began := time.Now()
		s := &statusWriter{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(s, req)
		e := event.UsageEvent{Account: m.Account(req), Pack: m.Pack(req), OccurredAt: began, Quantity: 1, Status: http.StatusOK, Endpoint: req.Pattern}
		switch {
		case e.Account == "" || e.Pack == "":
			return
		case s.status == http.StatusNotFound:
			e.Status = http.StatusNotFound
		case s.status < 200 || s.status > 299:
			return
		}
		if m.EventID != nil {
			e.EventID = m.EventID(req)
		}
		if e.EventID == "" || len(e.EventID) > MaxEventID {
			e.EventID = rand.Text()
		}
		m.Producer.Emit(e)
	})
}

// statusWriter remembers the status of an answer.
type statusWriter struct {
	http.ResponseWriter
	status int
	wrote  bool
}

func (s *statusWriter) WriteHeader(status int) {
	if !s.wrote && status >= 200 { // 1xx comes before the answer
		s.status, s.wrote = status, true
	}
	s.ResponseWriter.WriteHeader(status)
}

func (s *statusWriter) Write(b []byte) (int, error) {
	s.wrote = true
	return s.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (s *statusWriter) Unwrap() http.ResponseWriter { return s.ResponseWriter }
