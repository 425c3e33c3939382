// Command bench-seal measures how fast sealed records open, and what keys cost in memory: `make bench-seal`.
//
// Records of 300 bytes of payload are opened through seal.Keyring, as every reader does: it looks the key up, checks that it
// may still be used, and opens. decrypts_per_second is for records of 1,000 accounts in a random order, opened on two
// cores into a buffer that is used again; per_record_decrypts_per_second is for records that each have a key of their own,
// all of them in the cache. Allocations are those of an open. Bytes are heap after a collection, per key: wrapped as
// keys.events has it, and what it takes more unwrapped.
//
// The graph is of ten million identifiers, a mail address and a phone in each of five million pieces of evidence; every tenth
// phone is also another person's. graph_build_seconds is from the evidence, in memory already, to the file's bytes; graph_build_peak is all
// memory of the process behind it, the evidence included. graph_lookups_per_second is of identifiers of which half are known, on the
// same cores, in the mapped file; graph_open_seconds is mapping and checking it, graph_bytes_per_identifier its size, and
// graph_heap_bytes_per_identifier what an open graph takes beside it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/embedded"
	"databus/pkg/seal"
	"databus/pkg/service"
	"databus/pkg/topics"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
	"databus/test/measure"
)

const cores = 2

func main() {
	accounts := flag.Int("accounts", 1000, "accounts with a key each")
	records := flag.Int("records", 3000, "records with a key each")
	payload := flag.Int("payload", 300, "bytes of a payload")
	identifiers := flag.Int("identifiers", 10_000_000, "identifiers of the graph, two for each piece of evidence")
	length := flag.Duration("for", 3*time.Second, "length of one run; the best of three counts")
	flag.Parse()
	if err := run(context.Background(), *accounts, *records, *payload, *identifiers, *length); err != nil {
		fmt.Fprintln(os.Stderr, "bench-seal:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, accounts, records, payload, identifiers int, length time.Duration) (err error) {
	runtime.GOMAXPROCS(cores)
	stack, err := embedded.StartStack(embedded.StackOptions{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stack.Close()) }()
	kafka := []kgo.Opt{kgo.SeedBrokers(stack.Broker.Seeds()...), kgo.RecordPartitioner(service.Partitioner())}
	c := codec.New(codec.NewRegistry(stack.Registry.URL()), codec.Options{RegisterSchemas: true})
	if err := createTopic(ctx, kafka); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "bench-seal-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	keys, err := seal.Generate(filepath.Join(dir, "keys.json"))
	if err != nil {
		return err
	}
	open := func() (*seal.Keyring, error) {
		k, err := seal.OpenKeyring(ctx, seal.Options{Kafka: kafka, Codec: c, Keys: keys, Cache: 1_000_000})
		if err == nil {
			err = k.CaughtUp(ctx)
		}
		return k, err
	}
	writer, err := open()
	if err != nil {
		return err
	}
	defer writer.Close()
	byAccount, err := sealed(ctx, writer, accounts, 20, payload, func(i int) (string, string) { return fmt.Sprintf("account-%06d", i), "" })
	if err != nil {
		return err
	}
	if _, err := writer.Rotate(ctx, "single", seal.RecordScope); err != nil {
		return err
	}
	byRecord, err := sealed(ctx, writer, records, 4, payload, func(i int) (string, string) { return "single", fmt.Sprintf("%032x", i) })
	if err != nil {
		return err
	}

	machine := measure.Watch()
	before := heap()
	reader, err := open()
	if err != nil {
		return err
	}
	defer reader.Close()
	wrapped := heap()
	n := float64(len(reader.List()))
	perAccount, allocs, err := openAll(ctx, reader, byAccount, length)
	if err != nil {
		return err
	}
	perRecord, _, err := openAll(ctx, reader, byRecord, length)
	if err != nil {
		return err
	}
	unwrapped := heap()
	graphFigures, err := benchGraph(identifiers, length, dir)
	if err != nil {
		return err
	}
	fmt.Printf("%d accounts, %d records with keys, payloads of %d bytes, %d cores, load average %s\n", accounts, records, payload, cores, machine.Load())
	measure.Figure{Name: "per_record_decrypts_per_second", Value: perRecord, Unit: "1/s", None: true}.Print(os.Stdout)
	measure.Figure{Name: "bytes_per_wrapped_key", Value: float64(wrapped-before) / n, Unit: "bytes", None: true}.Print(os.Stdout)
	measure.Figure{Name: "bytes_per_unwrapped_key", Value: float64(unwrapped-wrapped) / n, Unit: "bytes", None: true}.Print(os.Stdout)
	for _, f := range graphFigures {
		f.Print(os.Stdout)
	}
	measure.Figure{Name: "decrypt_allocs", Value: allocs, Unit: "allocs", AtMost: true}.Print(os.Stdout)
	measure.Figure{Name: "decrypts_per_second", Value: perAccount, Unit: "1/s", Goal: 1.1e6}.Print(os.Stdout)
	runtime.KeepAlive(byAccount)
	runtime.KeepAlive(byRecord)
	return nil
}

func createTopic(ctx context.Context, kafka []kgo.Opt) error {
	client, err := kgo.NewClient(kafka...)
	if err != nil {
		return err
	}
	defer client.Close()
	_, err = topics.Apply(ctx, kadm.NewClient(client), []schemas.Topic{schemas.MustLookup(schemas.KeysEvents)}, topics.Options{})
	return err
}

// heap is what is in use after a collection.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// sealed makes records, each key's number of them, in a random order.
func sealed(ctx context.Context, k *seal.Keyring, keys, each, payload int, of func(int) (account, record string)) ([]event.DatabusRecord, error) {
	all := make([]event.DatabusRecord, keys*each)
	order := mathrand.New(mathrand.NewPCG(1, 2)).Perm(len(all))
	plain := make([]byte, payload)
	limit := make(chan struct{}, 64)
	failed := make(chan error, keys)
	var made sync.WaitGroup
	for i := range keys {
		limit <- struct{}{}
		made.Go(func() {
			defer func() { <-limit }()
			account, record := of(i)
			for n := range each {
				name := record
				if name == "" {
					name = fmt.Sprintf("%032x", n)
				}
				key, err := k.Sealer(ctx, account, name)
				if err != nil {
					failed <- err
					return
				}
				rec := event.DatabusRecord{Account: account, RecordKey: name, Kind: event.RecordKindUpsert, KeyID: key.ID(), PayloadSchema: []byte("12345678")}
				rec.Sealed = key.Seal(nil, name, rec.PayloadSchema, plain)
				all[order[i*each+n]] = rec
			}
		})
	}
	made.Wait()
	select {
	case err := <-failed:
		return nil, err
	default:
		return all, nil
	}
}

// openAll opens records over and over on all cores: the best rate of three runs, and the allocations of one open.
func openAll(ctx context.Context, k *seal.Keyring, records []event.DatabusRecord, length time.Duration) (best, allocs float64, err error) {
	size := len(records[0].Sealed) - seal.Overhead
	buf := make([]byte, 0, size)
	for i := range records { // everything is unwrapped, and right
		out, err := k.Open(ctx, buf, &records[i])
		if err != nil || len(out) != size {
			return 0, 0, fmt.Errorf("a record of %d bytes opened as %d: %w", size, len(out), err)
		}
	}
	i := 0
	allocs = testing.AllocsPerRun(10_000, func() {
		if _, err := k.Open(ctx, buf, &records[i%len(records)]); err != nil {
			panic(err)
		}
		i++
	})
	for range 3 {
		rate, err := onCores(length, func(core int, stop func() bool) (n int64, err error) {
			buf := make([]byte, 0, size)
			for i := core * len(records) / cores; !stop(); {
				for range 256 {
					if _, err := k.Open(ctx, buf, &records[i%len(records)]); err != nil {
						return n, err
					}
					i++
				}
				n += 256
			}
			return n, nil
		})
		if err != nil {
			return 0, 0, err
		}
		best = max(best, rate)
	}
	return best, allocs, nil
}

// onCores runs a loop on each core and returns how often it went round a second, over all.
func onCores(length time.Duration, loop func(core int, stop func() bool) (int64, error)) (float64, error) {
	var all sync.WaitGroup
	counts, errs := make([]int64, cores), make([]error, cores)
	began := time.Now()
	for core := range cores {
		all.Go(func() {
			counts[core], errs[core] = loop(core, func() bool { return time.Since(began) >= length })
		})
	}
	all.Wait()
	var sum int64
	for _, n := range counts {
		sum += n
	}
	return float64(sum) / time.Since(began).Seconds(), errors.Join(errs...)
}
