package ingest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"databus/pkg/limits"
)

// inFlight is how many records of a batch may wait for their acknowledgement.
const inFlight = 2000

// batch handles POST of records as NDJSON: a result per line, in order, each written as soon as its record and those
// before it are acknowledged. A line that is wrong is answered as such and changes nothing for the others.
func (a *api) batch(w http.ResponseWriter, r *http.Request, account string) *problem {
	strict, bad := a.strict(r)
	if bad != nil {
		return bad
	}
	if a.breaker.refuses() {
		return errKafkaAway
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	control := http.NewResponseController(w)
	// Reading on while answers are written; otherwise the server drains the body first.
	_ = control.EnableFullDuplex() // HTTP/2 always does
	w.Header().Set("Content-Type", "application/x-ndjson")

	queue := make(chan *pending, inFlight)
	go func() {
		defer close(queue)
		// A slow client must not hold up the service's end: what is read up to then is answered.
		defer context.AfterFunc(a.stopping, func() { _ = control.SetReadDeadline(time.Now()) })()
		a.readBatch(ctx, r.Body, account, strict, queue)
	}()
	var faults int
	var fault error // the first
	enc := json.NewEncoder(w)
	for p := range queue {
		if err := p.acknowledged(ctx); err != nil {
			if p.key != "" { // it was sent
				a.notAcknowledged(err)
			}
			f, bad := problemOf(err, notAcknowledged)
			if bad {
				if faults++; fault == nil {
					fault = err
				}
			}
			p.result = putResult{RequestID: p.result.RequestID, Status: f.Status, Problem: f.Error(), Field: f.Field}
		} else {
			a.used(usageID(account, p.result.RequestID), account, packWrite, r.Pattern, http.StatusOK)
		}
		a.metrics.lines.WithLabelValues(strconv.Itoa(p.result.Status)).Inc()
		err := a.at(PointBatch)
		if err == nil {
			err = enc.Encode(&p.result)
		}
		if err == nil && len(queue) == 0 {
			err = control.Flush() // a caller that sends line by line waits for this
		}
		if err != nil {
			cancel() // the client is gone; it will send the batch again
			for range queue {
			}
			break
		}
	}
	if fault != nil {
		a.env.Log.Warn("records of a batch were not acknowledged", "records", faults, "error", fault)
	}
	return nil
}

// refused is a line that was not sent.
func refused(requestID string, err error) *pending {
	f := &pending{result: putResult{RequestID: requestID}, done: make(chan placed, 1)}
	f.done <- placed{err: err}
	return f
}

// readBatch reads lines and sends their records; what is refused comes back as a pending that has failed already.
func (a *api) readBatch(ctx context.Context, body io.Reader, account string, strict bool, queue chan<- *pending) {
	lines := bufio.NewReaderSize(body, int(a.cfg.API.MaxBody)+1)
	for n := 1; ; n++ {
		line, err := nextLine(lines)
		switch {
		case errors.Is(err, io.EOF):
			return
		case a.stopping.Err() != nil:
			queue <- refused("", unavailable(fmt.Sprintf("the service is stopping; line %d and the rest were not read", n)))
			return
		case ctx.Err() != nil:
			queue <- refused("", unavailable(fmt.Sprintf("the time of a batch is over; line %d and the rest were not read", n)))
			return
		case errors.Is(err, bufio.ErrBufferFull):
			p := tooLarge(a.cfg.API.MaxBody)
			p.Detail = fmt.Sprintf("line %d: %s", n, p.Detail)
			queue <- refused("", p)
			continue
		case err != nil:
			queue <- refused("", badRequest("", fmt.Sprintf("the body ended early; line %d and the rest were not read", n)))
			return
		case n > a.cfg.API.MaxBatch:
			queue <- refused("", &problem{Status: http.StatusRequestEntityTooLarge, Title: "the batch is too long",
				Detail: fmt.Sprintf("at most %d lines; line %d and the rest were not read", a.cfg.API.MaxBatch, n)})
			return
		case len(line) == 0:
			continue
		}
		// A batch may be long: the limit that let it in may be used up by now.
		if d := a.limits.Allow(account, packWrite); !d.Allowed && d.Reason == limits.Exceeded {
			queue <- refused("", &problem{Status: http.StatusTooManyRequests, Title: "a limit of the account's contract is used up", Detail: fmt.Sprintf("line %d and the rest were not read", n)})
			return
		}
		var b putBody
		if p := decodeBody(line, &b); p != nil {
			p.Detail = fmt.Sprintf("line %d: %s", n, p.Detail)
			queue <- refused(b.RequestID, p)
			continue
		}
		q, p := a.request(account, &b)
		if p != nil {
			queue <- refused(b.RequestID, p)
			continue
		}
		sent, err := a.send(ctx, q, strict)
		if err != nil {
			sent = refused(q.RequestID, err)
		}
		queue <- sent
	}
}

// nextLine returns a line without its end. A line that does not fit into the reader is skipped as a whole, with
// bufio.ErrBufferFull. A last line without an end counts, unless the body broke off in it.
func nextLine(r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = r.ReadSlice('\n')
		}
		if err == nil || errors.Is(err, io.EOF) {
			return nil, bufio.ErrBufferFull
		}
		return nil, err
	}
	if errors.Is(err, io.EOF) && len(line) > 0 {
		err = nil
	}
	if n := len(line); n > 0 && line[n-1] == '\n' {
		line = line[:n-1]
	}
	if n := len(line); n > 0 && line[n-1] == '\r' {
		line = line[:n-1]
	}
	return line, err
}
