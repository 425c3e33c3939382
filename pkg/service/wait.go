package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/topics"
	"databus/schemas"
)

// Prepare waits until the brokers and the schema registry answer, then checks the topics of the given topologies. While
// it waits, the checks "kafka" and "registry" say what is missing. It fails when ctx ends and when topics are not as the
// catalogue says.
func (p *Process) Prepare(ctx context.Context, topologies ...schemas.Topology) error {
	kafka, registry := p.Health.Register("kafka"), p.Health.Register("registry")
	env := p.Env("start")
	env.Metrics = nil // the client lives for a moment; its counters would stay
	client, err := kgo.NewClient(env.KafkaOpts()...)
	if err != nil {
		return fmt.Errorf("opening Kafka client: %w", err)
	}
	defer client.Close()
	if err := p.await(ctx, "kafka", kafka, 5*time.Second, client.Ping); err != nil {
		return err
	}
	if err := p.await(ctx, "registry", registry, 5*time.Second, func(ctx context.Context) error {
		return pingRegistry(ctx, p.Config.Registry.URL)
	}); err != nil {
		return err
	}
	seen := map[string]bool{}
	var needed []schemas.Topic
	for _, t := range topologies {
		for _, topic := range t.Topics() {
			if !seen[topic.Name] {
				seen[topic.Name] = true
				needed = append(needed, topic)
			}
		}
	}
	if err := topics.Check(ctx, kadm.NewClient(client), needed); err != nil {
		kafka.Set(false, "topics are not as the catalogue says")
		return err
	}
	return nil
}

// Await repeats try, each time for no longer than limit, until it succeeds or ctx ends; meanwhile the check named what says what is
// wrong.
func (p *Process) Await(ctx context.Context, what string, limit time.Duration, try func(context.Context) error) error {
	return p.await(ctx, what, p.Health.Register(what), limit, try)
}

// await repeats try, each time for no longer than limit, with pauses from 100 ms to 5 s, until it succeeds or ctx ends.
func (p *Process) await(ctx context.Context, what string, check *Check, limit time.Duration, try func(context.Context) error) error {
	pause := 100 * time.Millisecond
	for {
		attempt, cancel := context.WithTimeout(ctx, limit)
		err := try(attempt)
		cancel()
		if err == nil {
			check.Set(true, "")
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("waiting for %s: %w", what, ctx.Err())
		}
		check.Set(false, "unreachable: "+err.Error())
		p.Log.Warn("waiting for "+what, "error", err, "retry_in", pause.String())
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", what, ctx.Err())
		case <-time.After(pause):
		}
		pause = min(2*pause, 5*time.Second)
	}
}

// pingRegistry asks for the list of subjects: it is the cheapest request that a wrong base path does not answer.
func pingRegistry(ctx context.Context, base string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimRight(base, "/")+"/subjects", nil)
	if err != nil {
		return errors.New("registry.url cannot be used")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the schema registry answers %s; is registry.url the base of its Confluent API, such as http://host:8080/apis/ccompat/v7?", resp.Status)
	}
	return nil
}
