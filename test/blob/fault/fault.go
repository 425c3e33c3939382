// Package fault stands between a client and an S3 server, and breaks single requests in known ways.
//
// Promise: an armed fault meets the next requests of its operation, as many as it says, and no other; Reached tells how
// many it has met. What passes the proxy otherwise is unchanged, so signatures stay valid. Wrong checksums and cut bodies
// really reach the server, which has to notice them.
//
// Concurrency: a Proxy may be used by any number of goroutines; one fault is armed at a time.
package fault

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
)

// Op is an operation of S3 that publishes something.
type Op string

// The operations: a Put in one request, and the steps of an upload in parts.
const (
	Put      Op = "put"
	Create   Op = "create"
	Part     Op = "part"
	Complete Op = "complete"
)

// Ops lists all operations.
func Ops() []Op { return []Op{Put, Create, Part, Complete} }

// Kind is what happens to a request.
type Kind string

// The kinds. Statuses are answers that the server never gave: the request does not reach it.
const (
	Forbidden     Kind = "403"
	NotFound      Kind = "404"
	Conflict      Kind = "409"
	Precondition  Kind = "412"
	TooMany       Kind = "429"
	Internal      Kind = "500"
	Unavailable   Kind = "503"
	Reset         Kind = "reset"          // the connection breaks before the request reaches the server
	TimeoutBefore Kind = "timeout before" // no answer, and the request does not reach the server
	TimeoutAfter  Kind = "timeout after"  // the request succeeds, and its answer never arrives
	Truncated     Kind = "truncated body" // half of the request's body arrives, or, where it has none worth it, half of the answer's
	WrongChecksum Kind = "wrong checksum" // a bit flips on the way to the server
)

// Kinds lists all kinds.
func Kinds() []Kind {
	return []Kind{Forbidden, NotFound, Conflict, Precondition, TooMany, Internal, Unavailable, Reset, TimeoutBefore, TimeoutAfter, Truncated, WrongChecksum}
}

// Proxy is a server before a server.
type Proxy struct {
	server *httptest.Server
	target *url.URL
	pass   *httputil.ReverseProxy

	mu      sync.Mutex
	op      Op
	kind    Kind
	left    int
	reached int
	headers map[Op]http.Header // of the last request of each operation
	seen    map[Op]int
}

// Start starts a proxy before the server at endpoint, on a port of its own.
func Start(endpoint string) (*Proxy, error) {
	target, err := url.Parse(endpoint)
	if err != nil {
		return nil, fmt.Errorf("starting the proxy: %w", err)
	}
	p := &Proxy{target: target, headers: map[Op]http.Header{}, seen: map[Op]int{}}
	p.pass = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = target.Scheme, target.Host, r.In.Host // the host is signed
		},
		// A server that hangs up is passed on as one that hangs up.
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) {
			if a, ok := w.(*httptest.ResponseRecorder); ok {
				a.Code = hungUp
				return
			}
			panic(http.ErrAbortHandler)
		},
	}
	p.server = httptest.NewServer(http.HandlerFunc(p.serve))
	return p, nil
}

// URL is the endpoint for clients.
func (p *Proxy) URL() string { return p.server.URL }

// Close ends the proxy and every request in it.
func (p *Proxy) Close() {
	p.server.CloseClientConnections()
	p.server.Close()
}

// Arm lets the fault meet the next times requests of op.
func (p *Proxy) Arm(op Op, kind Kind, times int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.op, p.kind, p.left, p.reached = op, kind, times, 0
}

// Disarm lets everything pass.
func (p *Proxy) Disarm() { p.Arm("", "", 0) }

// Reached says how many requests the armed fault has met, in full: a timeout after success counts when the server
// has succeeded, a wrong checksum when the server has refused it.
func (p *Proxy) Reached() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reached
}

// Seen returns how many requests of op there were, and the headers of the last.
func (p *Proxy) Seen(op Op) (int, http.Header) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen[op], p.headers[op]
}

// hungUp stands for the answer of a server that broke the connection.
const hungUp = 999

// operation says what a request does; "" is anything else.
func operation(r *http.Request) Op {
	q := r.URL.Query()
	switch {
	case r.Method == http.MethodPut && q.Has("partNumber"):
		return Part
	case r.Method == http.MethodPut && bytes.Count([]byte(r.URL.Path), []byte("/")) > 1:
		return Put
	case r.Method == http.MethodPost && q.Has("uploads"):
		return Create
	case r.Method == http.MethodPost && q.Has("uploadId"):
		return Complete
	}
	return ""
}

func (p *Proxy) meet(r *http.Request) (Op, Kind) {
	op := operation(r)
	p.mu.Lock()
	defer p.mu.Unlock()
	if op == "" {
		return op, ""
	}
	p.seen[op]++
	p.headers[op] = r.Header.Clone()
	if op != p.op || p.left == 0 {
		return op, ""
	}
	p.left--
	return op, p.kind
}

func (p *Proxy) hit() {
	p.mu.Lock()
	p.reached++
	p.mu.Unlock()
}

func (p *Proxy) serve(w http.ResponseWriter, r *http.Request) {
	op, kind := p.meet(r)
	switch kind {
	case "":
		p.pass.ServeHTTP(w, r)
	case Reset:
		_, _ = io.CopyN(io.Discard, r.Body, 1000)
		p.hit()
		hangUp(w)
	case TimeoutBefore:
		_, _ = io.Copy(io.Discard, r.Body)
		p.hit()
		<-r.Context().Done()
	case TimeoutAfter:
		if answer := p.forward(r); answer.Code < 300 {
			p.hit()
		}
		<-r.Context().Done()
	case Truncated:
		p.truncate(w, r, op)
	case WrongChecksum:
		p.corrupt(w, r, op)
	default:
		_, _ = io.Copy(io.Discard, r.Body)
		p.hit()
		refuse(w, kind, op)
	}
}

// forward gives the server's answer.
func (p *Proxy) forward(r *http.Request) *httptest.ResponseRecorder {
	answer := httptest.NewRecorder()
	r.Header.Del("Expect") // the body has been asked for
	p.pass.ServeHTTP(answer, r.WithContext(context.WithoutCancel(r.Context())))
	return answer
}

func (p *Proxy) truncate(w http.ResponseWriter, r *http.Request, op Op) {
	if op == Put || op == Part {
		// The server gets half of what was announced, then the end of the connection.
		if conn, err := net.Dial("tcp", p.target.Host); err == nil {
			half := r.Clone(r.Context())
			half.Body = io.NopCloser(io.LimitReader(r.Body, r.ContentLength/2))
			half.Header.Del("Expect")
			_ = half.Write(conn)
			_ = conn.Close()
			p.hit()
		}
		hangUp(w)
		return
	}
	answer := p.forward(r)
	for k, v := range answer.Header() {
		w.Header()[k] = v
	}
	w.Header().Set("Content-Length", fmt.Sprint(answer.Body.Len()))
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes()[:answer.Body.Len()/2])
	if answer.Code < 300 && answer.Body.Len() > 1 {
		p.hit()
	}
	panic(http.ErrAbortHandler)
}

func (p *Proxy) corrupt(w http.ResponseWriter, r *http.Request, op Op) {
	if op == Create { // it has no body
		r.Header.Set("X-Amz-Content-Sha256", "0000000000000000000000000000000000000000000000000000000000000000")
	} else {
		body, err := io.ReadAll(r.Body)
		if err != nil || len(body) == 0 {
			hangUp(w)
			return
		}
		at := len(body) / 2
		if op == Complete {
			at = max(0, bytes.Index(body, []byte("<ETag>"))+8) // still XML
			if body[at] == '0' {
				body[at] = '1'
			} else {
				body[at] = '0'
			}
		} else {
			body[at] ^= 1
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
	answer := p.forward(r)
	if answer.Code >= 400 {
		p.hit()
	}
	if answer.Code == hungUp {
		hangUp(w)
		return
	}
	for k, v := range answer.Header() {
		w.Header()[k] = v
	}
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes())
}

func refuse(w http.ResponseWriter, kind Kind, op Op) {
	status := map[Kind]int{
		Forbidden: 403, NotFound: 404, Conflict: 409, Precondition: 412, TooMany: 429, Internal: 500, Unavailable: 503,
	}[kind]
	code := map[Kind]string{
		Forbidden: "AccessDenied", NotFound: "NoSuchBucket", Conflict: "ConditionalRequestConflict", Precondition: "PreconditionFailed",
		TooMany: "TooManyRequests", Internal: "InternalError", Unavailable: "SlowDown",
	}[kind]
	if kind == NotFound && (op == Part || op == Complete) {
		code = "NoSuchUpload"
	}
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, `<?xml version="1.0" encoding="UTF-8"?><Error><Code>%s</Code><Message>injected</Message></Error>`, code)
}

// hangUp breaks the client's connection, without a farewell where that is possible.
func hangUp(w http.ResponseWriter) {
	if conn, _, err := w.(http.Hijacker).Hijack(); err == nil {
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = conn.Close()
	}
}
