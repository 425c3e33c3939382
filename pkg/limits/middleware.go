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
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	// Violated names the policy of the RateLimit-Policy field that refused the call.
	Violated []string `json:"violated-policies,omitempty"`
	Pack     string   `json:"pack,omitempty"`
	Period   string   `json:"period,omitempty"`
	Limit    int64    `json:"limit,omitempty"`
	ResetsAt string   `json:"resets_at,omitempty"` // RFC 3339
}

// quotaExceeded is the problem type of draft-ietf-httpapi-ratelimit-headers-10.
const quotaExceeded = "https://iana.org/assignments/http-problem-types#quota-exceeded"

// Wrap puts the guard in front of a handler. On every answer about a limit it sets RateLimit-Policy and RateLimit of
// draft-ietf-httpapi-ratelimit-headers-10, where the policy is the limit's pack and period, and for clients of earlier
// drafts RateLimit-Limit, RateLimit-Remaining and RateLimit-Reset (seconds); on refusals that end Retry-After.
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
	limit, remaining := strconv.FormatInt(d.Limit, 10), strconv.FormatInt(max(0, d.Remaining), 10)
	name := `"` + d.policy() + `"` // packs and periods hold no character that a quoted string escapes
	h.Set("RateLimit-Policy", name+";q="+limit)
	h.Set("RateLimit", name+";r="+remaining)
	h.Set("RateLimit-Limit", limit)
	h.Set("RateLimit-Remaining", remaining)
	if d.Reset.IsZero() {
		return
	}
	seconds := strconv.FormatInt(max(1, int64(d.Reset.Sub(g.View.o.Clock())+time.Second-1)/int64(time.Second)), 10)
	h.Set("RateLimit", name+";r="+remaining+";t="+seconds)
	h.Set("RateLimit-Reset", seconds)
	if !d.Allowed {
		h.Set("Retry-After", seconds)
	}
}

// policy is the limit's name in header fields and problems.
func (d Decision) policy() string { return d.Pack + "/" + d.Period }

func refuse(w http.ResponseWriter, d Decision) {
	p := Problem{Type: quotaExceeded, Title: "Too Many Requests", Status: http.StatusTooManyRequests, Detail: "The account has used up a limit of its contract.",
		Violated: []string{d.policy()}, Pack: d.Pack, Period: d.Period, Limit: d.Limit}
	if !d.Reset.IsZero() {
		p.ResetsAt = d.Reset.UTC().Format(time.RFC3339)
	}
	if d.Reason == NotCaughtUp {
		// Not the caller's fault, and over soon.
		p.Type, p.Status, p.Title, p.Violated = "about:blank", http.StatusServiceUnavailable, "Service Unavailable", nil
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
