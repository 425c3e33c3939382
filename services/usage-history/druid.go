package usagehistory

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"databus/pkg/usage"
	"databus/schemas/event"
)

// druid asks Druid's SQL over HTTP (POST /druid/v2/sql), which counts by the time when events happened.
type druid struct {
	cfg    Druid
	client *http.Client
}

func newDruid(cfg Druid) *druid {
	// Redirects would send the credentials elsewhere.
	return &druid{cfg, &http.Client{Timeout: cfg.Timeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

// answer asks one query a request. What comes before a failure is answered.
func (d *druid) answer(ctx context.Context, asked []*event.BaselineRequest) ([]outcome, error) {
	out := make([]outcome, len(asked))
	for i, q := range asked {
		s, err := d.count(ctx, q)
		switch {
		case err != nil && i == 0:
			return nil, err
		case err != nil:
			for k := range out[i:] {
				out[i+k].wait = time.Now() // the failure comes again, or it does not
			}
			return out, nil
		case s == nil:
			out[i].refused = noRoom
		default:
			out[i].answer = s.baseline(q)
			out[i].answer.Estimated, out[i].answer.FirstOffset = true, -1
		}
	}
	return out, nil
}

// parameter is a dynamic parameter of a query.
type parameter struct {
	Type  string `json:"type"`
	Value any    `json:"value"`
}

// query is the body of a request to Druid.
type query struct {
	Query        string         `json:"query"`
	ResultFormat string         `json:"resultFormat"`
	Parameters   []parameter    `json:"parameters"`
	Context      map[string]any `json:"context"`
}

// row is one row of the answer.
type row struct {
	Matched  int64       `json:"matched"` // 1 or 0
	Provider *string     `json:"provider"`
	Quantity json.Number `json:"quantity"`
	Amount   json.Number `json:"amount"`
}

// name quotes an identifier.
func name(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }

// ask is the query for the sums of a request by match and provider. Values are parameters: nothing of a request is in the text.
func (d *druid) ask(q *event.BaselineRequest) query {
	c := d.cfg.Columns
	until := q.SeamTime
	if q.PeriodEnd != nil && q.PeriodEnd.Before(until) {
		until = *q.PeriodEnd
	}
	b := query{ResultFormat: "object", Context: map[string]any{"sqlTimeZone": "UTC", "timeout": d.cfg.Timeout.Milliseconds()},
		Parameters: []parameter{{"BIGINT", q.PeriodStart.UnixMilli()}, {"BIGINT", until.UnixMilli()}, {"VARCHAR", q.Account}}}
	where := fmt.Sprintf("%s >= MILLIS_TO_TIMESTAMP(?) AND %s < MILLIS_TO_TIMESTAMP(?) AND %s = ?", name(c.Time), name(c.Time), name(c.Account))
	if q.Pack != usage.AllPacks {
		where += fmt.Sprintf(" AND %s = ?", name(c.Pack))
		b.Parameters = append(b.Parameters, parameter{"VARCHAR", q.Pack})
	}
	b.Query = fmt.Sprintf(`SELECT CASE WHEN %s = 200 THEN 1 ELSE 0 END AS "matched", %s AS "provider", SUM(%s) AS "quantity", SUM(%s) AS "amount" FROM %s WHERE %s GROUP BY 1, 2 ORDER BY 2, 1`,
		name(c.Status), name(c.Provider), name(c.Quantity), name(c.Amount), name(d.cfg.Datasource), where)
	return b
}

// count asks one query; nil where a sum has no room.
func (d *druid) count(ctx context.Context, q *event.BaselineRequest) (*sums, error) {
	body, err := json.Marshal(d.ask(q))
	if err != nil {
		return nil, fmt.Errorf("asking Druid: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(d.cfg.URL, "/")+"/druid/v2/sql", bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("asking Druid: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	switch {
	case d.cfg.Token != "":
		req.Header.Set("Authorization", "Bearer "+d.cfg.Token.Reveal())
	case d.cfg.User != "":
		req.SetBasicAuth(d.cfg.User, d.cfg.Password.Reveal())
	}
	resp, err := d.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking Druid: %w", err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, int64(d.cfg.MaxBytes)+1))
	if resp.StatusCode != http.StatusOK {
		return nil, refusal(resp.StatusCode, answer)
	}
	if err != nil {
		return nil, fmt.Errorf("reading Druid's answer: %w", err)
	}
	if len(answer) > d.cfg.MaxBytes {
		return nil, fmt.Errorf("reading Druid's answer: it is longer than druid.max_bytes, %d", d.cfg.MaxBytes)
	}
	var rows []row // an answer that breaks off in the middle is no JSON
	if err := json.Unmarshal(answer, &rows); err != nil {
		return nil, errors.New("reading Druid's answer: it is not the array of rows that was asked for; check druid.url and druid.columns")
	}
	s := &sums{}
	for _, r := range rows {
		quantity, err1 := whole(r.Quantity)
		amount, err2 := whole(r.Amount)
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("reading Druid's answer: %w", err)
		}
		e := event.UsageEvent{Status: 404, Quantity: quantity, AmountMicros: amount, Provider: r.Provider}
		if r.Matched == 1 {
			e.Status = 200
		}
		if e.Provider != nil && !usage.ValidPack(*e.Provider) { // "" where Druid keeps no nulls
			e.Provider = nil
		}
		if !usage.SumFits(quantity) || !usage.SumFits(amount) || !s.add(&e, 1) {
			return nil, nil
		}
	}
	return s, nil
}

// whole is a sum as a whole number; the sum over nothing is null.
func whole(n json.Number) (int64, error) {
	if n == "" {
		return 0, nil
	}
	if v, err := n.Int64(); err == nil {
		return v, nil
	}
	f, err := n.Float64() // a column of doubles
	if v := int64(f); err == nil && float64(v) == f {
		return v, nil
	}
	return 0, errors.New("a sum is no whole number: quantity and amount must be whole")
}

// refusal is Druid's error with what names its kind. Its message may hold values of the query.
func refusal(status int, body []byte) error {
	var e struct {
		Error     string `json:"error"`
		ErrorCode string `json:"errorCode"`
		Class     string `json:"errorClass"`
	}
	_ = json.Unmarshal(body, &e) // a proxy's page is none
	kind := ""
	for _, k := range []string{e.Error, e.ErrorCode, e.Class} {
		if k != "" && len(k) <= 100 {
			kind += ", " + k
		}
	}
	hint := ""
	switch {
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		hint = "; check druid.user and druid.password, or druid.token"
	case status == http.StatusBadRequest || status == http.StatusNotFound || status/100 == 3:
		hint = "; check druid.url, druid.datasource and druid.columns"
	}
	return fmt.Errorf("asking Druid: status %d%s%s", status, kind, hint)
}
