package ingest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"time"

	"databus/test/ingest/verify"
)

// answer is the API's answer to one record.
type answer struct {
	RequestID string `json:"request_id"`
	Status    int    `json:"status"`
	FCID      string `json:"fcid"`
	PersonID  string `json:"person_id"`
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"`
	Problem   string `json:"problem"`
}

func (a answer) ack() verify.Ack {
	return verify.Ack{RequestID: a.RequestID, Partition: a.Partition, Offset: a.Offset, FCID: a.FCID, PersonID: a.PersonID}
}

// call sends to the n-th instance, and from there on in turns, until there is an answer other than 5xx. read returns an
// error where the answer broke off.
func (l *load) call(ctx context.Context, n int, method, path string, body []byte, read func(status int, body io.Reader) error) {
	for deadline := time.Now().Add(patience); ; n++ {
		status, err := l.once(ctx, l.w.instances[n%len(l.w.instances)], method, path, body, read)
		switch {
		case err == nil && status < 500:
			return
		case ctx.Err() != nil:
			l.fail(ctx.Err())
			return
		case time.Now().After(deadline):
			l.fail(fmt.Errorf("%s %s: no answer within %v: status %d, %v", method, path, patience, status, err))
			return
		}
		l.mu.Lock()
		l.again++
		l.mu.Unlock()
		time.Sleep(30 * time.Millisecond)
	}
}

func (l *load) once(ctx context.Context, i *instance, method, path string, body []byte, read func(int, io.Reader) error) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+i.api+path, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 500 {
		return resp.StatusCode, nil
	}
	return resp.StatusCode, read(resp.StatusCode, resp.Body)
}

// put sends one record until it is acknowledged.
func (l *load) put(ctx context.Context, o op, n int) {
	body, err := json.Marshal(o)
	if err != nil {
		l.fail(err)
		return
	}
	l.call(ctx, n, http.MethodPost, "/v1/accounts/"+o.account+"/records", body, func(status int, b io.Reader) error {
		if status != http.StatusOK {
			text, _ := io.ReadAll(b)
			l.fail(fmt.Errorf("request %s was answered with %d: %s", o.RequestID, status, text))
			return nil
		}
		var a answer
		if err := json.NewDecoder(b).Decode(&a); err != nil {
			return err
		}
		l.ack(a.ack())
		return nil
	})
}

// putBatch sends a batch until each line is acknowledged. What an answer that broke off has acknowledged counts too.
func (l *load) putBatch(ctx context.Context, account string, ops []op, n int) {
	var body bytes.Buffer
	enc := json.NewEncoder(&body)
	for _, o := range ops {
		if err := enc.Encode(o); err != nil {
			l.fail(err)
			return
		}
	}
	l.call(ctx, n, http.MethodPost, "/v1/accounts/"+account+"/records/batch", body.Bytes(), func(status int, b io.Reader) error {
		if status != http.StatusOK {
			text, _ := io.ReadAll(b)
			l.fail(fmt.Errorf("a batch was answered with %d: %s", status, text))
			return nil
		}
		lines, good := bufio.NewScanner(b), 0
		for lines.Scan() {
			var a answer
			if err := json.Unmarshal(lines.Bytes(), &a); err != nil {
				return err
			}
			switch {
			case a.Status >= 500:
				return fmt.Errorf("line %d: %d: %s", good+1, a.Status, a.Problem)
			case a.Status != http.StatusOK || good >= len(ops) || a.RequestID != ops[good].RequestID:
				l.fail(fmt.Errorf("line %d of a batch was answered with %s", good+1, lines.Text()))
				return nil
			}
			l.ack(a.ack())
			good++
		}
		if good < len(ops) {
			return fmt.Errorf("%d lines of %d are answered", good, len(ops))
		}
		return lines.Err()
	})
}

// lookUp asks the applying instance for every record: what comes back is what was sent last, opened.
func (l *load) lookUp() {
	t := l.w.t
	t.Helper()
	for a := range accounts {
		for r := range records {
			account, record := fmt.Sprint("account-", a), fmt.Sprint("record/", r)
			l.call(t.Context(), 0, http.MethodGet, "/v1/accounts/"+account+"/records/"+url.PathEscape(record), nil, func(status int, b io.Reader) error {
				if status == http.StatusNotFound {
					return nil // whether it should be is the tables' concern
				}
				var f struct {
					RecordID string            `json:"record_id"`
					Fields   map[string]string `json:"fields"`
				}
				if err := json.NewDecoder(b).Decode(&f); err != nil {
					return err
				}
				known := f.RecordID == record
				for _, s := range l.sent {
					if known && s.Account == account && s.RecordID == record && !s.Delete && maps.Equal(s.Fields, f.Fields) {
						return nil
					}
				}
				t.Errorf("record %s of %s is %v, which nobody sent", record, account, f)
				return nil
			})
		}
	}
}
