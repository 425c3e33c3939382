package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"databus/pkg/identity"
)

// serveTools answers other commands on a port of this machine until stop is called.
func serveTools(stores identity.Stores) (base string, stop func(), err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, fmt.Errorf("listening for other commands: %w", err)
	}
	var answering sync.WaitGroup
	handler := toolsHandler(stores)
	s := &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answering.Add(1)
		defer answering.Done()
		handler.ServeHTTP(w, r)
	})}
	served := make(chan struct{})
	go func() { defer close(served); _ = s.Serve(l) }() // it ends with stop
	return "http://" + l.Addr().String(), func() {
		_ = s.Close()
		<-served
		answering.Wait() // the stores are closed after this
	}, nil
}

// toolsHandler is what `databus dev` answers to other commands about parts that one process alone can open.
func toolsHandler(stores identity.Stores) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /databases/compare", func(w http.ResponseWriter, r *http.Request) {
		c, err := compareKeyspaces(r.Context(), stores, r.FormValue("a"), r.FormValue("b"))
		if err != nil {
			http.Error(w, oneLine(err), http.StatusUnprocessableEntity)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		printJSON(w, c)
	})
	return mux
}

// askCompare asks a running `databus dev` to compare two keyspaces.
func askCompare(ctx context.Context, tools, a, b string) (*identity.Comparison, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, tools+"/databases/compare?"+url.Values{"a": {a}, "b": {b}}.Encode(), nil)
	if err != nil {
		return nil, fmt.Errorf("asking `databus dev`: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking `databus dev` to compare: %w; start it again, or name the identity store with --identity-url", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096)) // what it said, as far as it came
		return nil, errors.New(cmp.Or(strings.TrimSpace(string(text)), resp.Status))
	}
	var c identity.Comparison
	if err := json.NewDecoder(resp.Body).Decode(&c); err != nil {
		return nil, fmt.Errorf("reading the answer of `databus dev`: %w", err)
	}
	return &c, nil
}
