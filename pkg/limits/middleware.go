package limits

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"
)

// Guard is HTTP middleware that lets a call through or answers 429.
type Guard struct {
	View *View
	// Account and Pack say whose call it is and to what. An empty account is let through: there is nobody to limit, and
	// authentication is the handler's.
	Account, Pack func(*http.Request) string
}

// Problem is the body of a refusal, application/problem+json (RFC 9457).
type Problem struct {
	Type     string `json:"type"`
	Title    string `json:"title"`
	Status   int    `json:"status"`
	Detail   string `json:"detail"`
	Pack     string `json:"pack,omitempty"`
	Period   string `json:"period,omitempty"`
	Limit    int64  `json:"limit,omitempty"`
	ResetsAt string `json:"resets_at,omitempty"` // RFC 3339
}

// Wrap puts the guard in front of a handler. It sets RateLimit-Limit, RateLimit-Remaining and RateLimit-Reset (seconds)
// of draft-ietf-httpapi-ratelimit-headers-07 on every answer about a limit, and Retry-After on refusals that end.
func (g Guard) Wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		account := g.Account(req)
		if account == "" {
			next.ServeHTTP(w, req)
			return
		}
		d := g.View.Allow(account, g.Pack(req))
		g.headers(w.Header(), d)
		if d.Allowed {
			next.ServeHTTP(w, req)
			return
		}
		refuse(w, d)
	})
}

func (g Guard) headers(h http.Header, d Decision) {
	if d.Reason != Within && d.Reason != Exceeded {
		return
	}
	h.Set("RateLimit-Limit", strconv.FormatInt(d.Limit, 10))
	h.Set("RateLimit-Remaining", strconv.FormatInt(max(0, d.Remaining), 10))
	if d.Reset.IsZero() {
		return
	}
	seconds := strconv.FormatInt(max(1, int64(d.Reset.Sub(g.View.o.Clock())+time.Second-1)/int64(time.Second)), 10)
	h.Set("RateLimit-Reset", seconds)
	if !d.Allowed {
		h.Set("Retry-After", seconds)
	}
}

func refuse(w http.ResponseWriter, d Decision) {
	p := Problem{Type: "about:blank", Title: "Too Many Requests", Status: http.StatusTooManyRequests, Detail: "The account has used up a limit of its contract.",
		Pack: d.Pack, Period: d.Period, Limit: d.Limit}
	if !d.Reset.IsZero() {
		p.ResetsAt = d.Reset.UTC().Format(time.RFC3339)
	}
	if d.Reason == NotCaughtUp {
		// Not the caller's fault, and over soon.
		p.Status, p.Title = http.StatusServiceUnavailable, "Service Unavailable"
		p.Detail = "The limits of the account are not known yet; try again soon."
		w.Header().Set("Retry-After", "1")
	}
	body, err := json.Marshal(p)
	if err != nil {
		http.Error(w, p.Title, p.Status)
		return
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	_, _ = w.Write(body) // the client is gone if this fails
}
