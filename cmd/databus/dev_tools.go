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
	mux.HandleFunc("GET /databases/person", func(w http.ResponseWriter, r *http.Request) {
		keys, err := recordsOfPerson(r.Context(), stores, r.FormValue("keyspace"), r.FormValue("account"), r.FormValue("person"))
		if err != nil {
			http.Error(w, oneLine(err), http.StatusUnprocessableEntity)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		printJSON(w, keys)
	})
	return mux
}

// askCompare asks a running `databus dev` to compare two keyspaces.
func askCompare(ctx context.Context, tools, a, b string) (*identity.Comparison, error) {
	c := new(identity.Comparison)
	err := ask(ctx, "to compare", tools+"/databases/compare?"+url.Values{"a": {a}, "b": {b}}.Encode(), c)
	return c, err
}

// askRecordsOfPerson asks it for the record keys of an account's person.
func askRecordsOfPerson(ctx context.Context, tools, keyspace, account, person string) (keys []string, err error) {
	err = ask(ctx, "for a person", tools+"/databases/person?"+url.Values{"keyspace": {keyspace}, "account": {account}, "person": {person}}.Encode(), &keys)
	return keys, err
}

func ask(ctx context.Context, what, address string, answer any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return fmt.Errorf("asking `databus dev`: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("asking `databus dev` %s: %w; start it again, or name the identity store with --identity-url", what, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096)) // what it said, as far as it came
		return errors.New(cmp.Or(strings.TrimSpace(string(text)), resp.Status))
	}
	if err := json.NewDecoder(resp.Body).Decode(answer); err != nil {
		return fmt.Errorf("reading the answer of `databus dev`: %w", err)
	}
	return nil
}
