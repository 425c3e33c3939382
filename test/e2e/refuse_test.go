package e2e

import (
	"fmt"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"databus/pkg/embedded"
	"databus/pkg/topics"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

// startLimiter runs a service as a process of its own, as in production.
func startLimiter(t *testing.T, brokers []string, registry string) (p *command, operators string) {
	t.Helper()
	operators = freeAddress(t)
	return start(t, []string{"DATABUS_KAFKA__BROKERS=" + strings.Join(brokers, ","), "DATABUS_REGISTRY__URL=" + registry, "DATABUS_HTTP__LISTEN=" + operators,
		"DATABUS_INSTANCE__ID=e2e", "DATABUS_INSTANCE__STATE_DIR=" + t.TempDir()}, program(t, "services/limiter/cmd/limiter")), operators
}

// A topic with another number of partitions would send keys to wrong ones: nobody works on it, and everybody says which
// topic it is, what it has, what it should have and what to do.
func TestWrongPartitionCountIsRefused(t *testing.T) {
	dir := t.TempDir()
	stack, err := embedded.StartStack(embedded.StackOptions{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	closed := false
	t.Cleanup(func() {
		if !closed {
			_ = stack.Close()
		}
	})
	c := connect(t, stack.Broker.Seeds(), stack.Registry.URL())
	const wrong = schemas.UsageLimits
	if _, err := c.CreateTopic(t.Context(), 3, 1, nil, wrong); err != nil {
		t.Fatal(err)
	}
	var others []schemas.Topic
	for _, topic := range schemas.WithDeadLetters() {
		if topic.Name != wrong {
			others = append(others, topic)
		}
	}
	if _, err := topics.Apply(t.Context(), c.Client, others, topics.Options{}); err != nil {
		t.Fatal(err)
	}
	says := func(p *command) {
		t.Helper()
		if code := p.wait(t, time.Minute); code != 1 {
			t.Errorf("%s ended with exit code %d", filepath.Base(p.name), code)
		}
		for _, want := range []string{wrong, "partitions", "3", strconv.Itoa(int(schemas.MustLookup(wrong).Partitions)), "databus topics"} {
			if !strings.Contains(p.err.String(), want) {
				t.Errorf("%s does not say %q:\n%s", filepath.Base(p.name), want, &p.err)
			}
		}
	}
	limiter, _ := startLimiter(t, stack.Broker.Seeds(), stack.Registry.URL())
	says(limiter)
	says(run(t, time.Minute, program(t, "cmd/databus"), "--brokers", strings.Join(stack.Broker.Seeds(), ","), "--registry", stack.Registry.URL(),
		"produce", wrong, "--key", "a/p/total", `{}`))
	if err := stack.Close(); err != nil {
		t.Fatal(err)
	}
	closed = true
	says(startDev(t, dir, freeAddress(t)).command)
}

// A service that starts before its registry waits for it and says so; it is alive, and becomes ready by itself.
func TestServiceWaitsForTheRegistry(t *testing.T) {
	stack, err := embedded.StartStack(embedded.StackOptions{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stack.Close() })
	c := connect(t, stack.Broker.Seeds(), stack.Registry.URL())
	if _, err := topics.Apply(t.Context(), c.Client, schemas.WithDeadLetters(), topics.Options{}); err != nil {
		t.Fatal(err)
	}
	away := freeAddress(t)
	limiter, operators := startLimiter(t, stack.Broker.Seeds(), "http://"+away)
	eventually(t, 30*time.Second, "the limiter says what it waits for", func() string {
		if ready, why := readyz(operators); ready || !strings.Contains(why, "registry: unreachable") {
			return fmt.Sprintf("ready %v: %s", ready, why)
		}
		return ""
	})
	u, err := url.Parse("http://" + away)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		t.Fatal(err)
	}
	registry, err := embedded.StartRegistry(embedded.RegistryOptions{Port: port})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = registry.Close() })
	if err := codec.RegisterCatalogue(t.Context(), codec.NewRegistry(registry.URL()), nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "the limiter is ready", func() string {
		select {
		case <-limiter.Done():
			t.Fatalf("the limiter ended with exit code %d\n%s", limiter.ExitCode(), &limiter.err)
		default:
		}
		if ready, why := readyz(operators); !ready {
			return why
		}
		return ""
	})
	// A registry that goes away later stops nothing that is known already.
	if err := registry.Close(); err != nil {
		t.Fatal(err)
	}
	limiter.Signal(syscall.SIGTERM)
	if code := limiter.wait(t, 30*time.Second); code != 0 {
		t.Errorf("the limiter ended with exit code %d\n%s", code, &limiter.err)
	}
}

// What a person mistypes is refused with a reason and reaches no topic.
func TestWrongInputIsRefused(t *testing.T) {
	d := startDev(t, t.TempDir(), freeAddress(t))
	d.mustReady(t)
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"produce", "usage.events", `{"event_id":"e1","account":`}, "line 1"},
		{[]string{"produce", "usage.events", `{"event_id":"e1","account":"a","pack":"p","occurred_at":0,"colour":"red"}`}, "colour"},
		{[]string{"produce", "usage.events", `{"event_id":7,"account":"a","pack":"p","occurred_at":0}`}, "event_id"},
		{[]string{"produce", "usage.events", `{"event_id":"e1"}`}, "account"},
		{[]string{"produce", "usage.event", `{}`}, "not in the catalogue"},
		{[]string{"--registry", "http://" + freeAddress(t), "produce", "usage.events", `{"event_id":"e1","account":"a","pack":"p","occurred_at":0}`}, "no schema registry answers"},
		{[]string{"--brokers", freeAddress(t), "produce", "usage.events", `{"event_id":"e1","account":"a","pack":"p","occurred_at":0}`}, "no Kafka broker answers"},
	} {
		p := run(t, 30*time.Second, program(t, "cmd/databus"), append([]string{"--dir", d.dir}, c.args...)...)
		if p.ExitCode() != 1 || !strings.Contains(p.err.String(), c.says) {
			t.Errorf("databus %v: exit code %d, want 1 and %q:\n%s", c.args, p.ExitCode(), c.says, &p.err)
		}
	}
	c := connect(t, d.brokers, d.registry)
	if n := len(c.read(t, schemas.UsageEvents)); n != 0 {
		t.Errorf("%d events were produced", n)
	}
	// And what is right is counted, so the above was not refused for another reason.
	p := run(t, 30*time.Second, program(t, "cmd/databus"), "--dir", d.dir, "produce", "usage.events",
		fmt.Sprintf(`{"event_id":"e1","account":"a","pack":"p","occurred_at":%d}`, time.Now().UnixMicro()))
	if p.ExitCode() != 0 {
		t.Fatalf("exit code %d\n%s", p.ExitCode(), &p.err)
	}
	eventually(t, 30*time.Second, "counting", func() string { return counted(t, c, "a", "p", 1) })
	if all := values[event.UsageEvent](t, c, schemas.UsageEvents); len(all) != 1 || all[0].Quantity != 1 || all[0].Status != 200 {
		t.Errorf("the events are %+v", all)
	}
}
