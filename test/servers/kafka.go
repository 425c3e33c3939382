package servers

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"databus/test/servers/fetch"
)

// Cluster is a set of Kafka brokers, each of them broker and controller.
type Cluster struct {
	Brokers []*Process
}

// Addr returns the bootstrap list: host:port, comma-separated.
func (c *Cluster) Addr() string {
	addrs := make([]string, len(c.Brokers))
	for i, b := range c.Brokers {
		addrs[i] = b.Addr
	}
	return strings.Join(addrs, ",")
}

// Close kills all brokers and removes their data as Process.Close does.
func (c *Cluster) Close() {
	for _, b := range c.Brokers {
		b.Close()
	}
}

// StartKafka starts one broker. It creates no topic by itself.
//
// Claims about exactly-once under Kill9 need StartKafkaCluster. A single broker killed between the answer to a
// transaction's end and the writing of its marker may never write the marker: while it registers again, its only-replica
// partitions have no leader, and Kafka 4.3.1 then takes them for deleted ("Couldn't find leader endpoint ... can be
// skipped" in the log). The next transaction of that producer decides for both, so an aborted one can become visible.
func StartKafka(ctx context.Context, o Options) (*Process, error) {
	c, err := startKafka(ctx, 1, o)
	if err != nil {
		return nil, err
	}
	return c.Brokers[0], nil
}

// StartKafkaCluster starts n brokers, 3 to 9, with replication factor 3 and at least 2 in-sync replicas for a write.
func StartKafkaCluster(ctx context.Context, n int, o Options) (*Cluster, error) {
	if n < 3 || n > 9 {
		return nil, fmt.Errorf("starting a Kafka cluster: %d brokers asked for, 3 to 9 are possible", n)
	}
	return startKafka(ctx, n, o)
}

func startKafka(ctx context.Context, n int, o Options) (_ *Cluster, err error) {
	cache, err := fetch.Open()
	if err != nil {
		return nil, err
	}
	java, _, err := fetch.Java(ctx)
	if err != nil {
		return nil, fmt.Errorf("starting kafka: %w", err)
	}
	dist, err := mavenJars(ctx, cache, "kafka", "log4j2.properties")
	if err != nil {
		return nil, err
	}
	classes := []string{
		"-cp", filepath.Join(dist, "libs", "*"),
		"-Dlog4j2.configurationFile=" + filepath.Join(dist, "log4j2.properties"), "-Djava.awt.headless=true",
	}

	c := &Cluster{}
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	var voters []string
	var ports [][]int // per broker: client, controller
	for i := 1; i <= n; i++ {
		b := &Process{Name: "kafka", path: java, env: os.Environ()}
		if n > 1 {
			b.Name = fmt.Sprintf("kafka-%d", i)
		}
		p, err := b.prepare(cache, o, 2)
		if err != nil {
			return nil, err
		}
		c.Brokers, ports = append(c.Brokers, b), append(ports, p)
		voters = append(voters, fmt.Sprintf("%d@127.0.0.1:%d", i, p[1]))
	}
	id, err := clusterID()
	if err != nil {
		return nil, err
	}
	for i, b := range c.Brokers {
		props := brokerProperties(i+1, n, ports[i], strings.Join(voters, ","), filepath.Join(b.Dir, "log"))
		file := filepath.Join(b.Dir, "server.properties")
		if err := writeSettings(file, props, o.Config, "="); err != nil {
			return nil, err
		}
		if _, err := os.Stat(filepath.Join(b.Dir, "log", "meta.properties")); errors.Is(err, os.ErrNotExist) {
			format := append([]string{"-Xmx128m", "-XX:TieredStopAtLevel=1"}, classes...)
			format = append(format, "kafka.tools.StorageTool", "format", "-t", id, "-c", file)
			if err := fetch.Run(ctx, b.Dir, nil, java, format...); err != nil {
				return nil, fmt.Errorf("formatting the log directory of %s: %w", b.Name, err)
			}
		}
		b.args = append(brokerHeap(n, o.Heap), classes...)
		b.args = append(b.args, "kafka.Kafka", file)
		b.ready = func(ctx context.Context) error { return kafkaReady(ctx, b.Addr, b.Addr) }
	}
	for _, b := range c.Brokers { // first all, then wait: one of them alone has no quorum
		if err := b.launch(); err != nil {
			return nil, err
		}
	}
	for _, b := range c.Brokers {
		if err := b.await(ctx); err != nil {
			return nil, err
		}
	}
	return c, c.awaitMembers(ctx)
}

// awaitMembers waits until every broker knows every broker.
func (c *Cluster) awaitMembers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	for _, b := range c.Brokers {
		for _, other := range c.Brokers {
			for {
				err := kafkaReady(ctx, b.Addr, other.Addr)
				if err == nil {
					break
				}
				select {
				case <-ctx.Done():
					return b.failure("starting", fmt.Errorf("the cluster did not form in time: %w", err))
				case <-time.After(readyPoll):
				}
			}
		}
	}
	return nil
}

func brokerHeap(n int, heap string) []string {
	if n > 1 {
		return []string{"-Xms128m", "-Xmx" + orElse(heap, "256m"), "-XX:+UseSerialGC", "-XX:MaxMetaspaceSize=128m", "-XX:ReservedCodeCacheSize=64m"}
	}
	return []string{"-Xms128m", "-Xmx" + orElse(heap, "512m"), "-XX:+UseG1GC", "-XX:MaxMetaspaceSize=128m"}
}

func orElse(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

// brokerProperties returns server.properties of broker id of n.
func brokerProperties(id, n int, ports []int, voters, logDir string) map[string]string {
	rf, minISR, sessionMS := "1", "1", "6000"
	if n > 1 {
		rf, minISR, sessionMS = "3", "2", "3000" // a dead broker is noticed after 3 s (Kafka's default: 9 s)
	}
	address := fmt.Sprintf("PLAINTEXT://127.0.0.1:%d", ports[0])
	return map[string]string{
		"process.roles":                  "broker,controller",
		"node.id":                        strconv.Itoa(id),
		"controller.quorum.voters":       voters,
		"listeners":                      fmt.Sprintf("%s,CONTROLLER://127.0.0.1:%d", address, ports[1]),
		"advertised.listeners":           address,
		"inter.broker.listener.name":     "PLAINTEXT",
		"controller.listener.names":      "CONTROLLER",
		"listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
		"log.dirs":                       logDir,

		"auto.create.topics.enable":                        "false",
		"unclean.leader.election.enable":                   "false",
		"default.replication.factor":                       rf,
		"min.insync.replicas":                              minISR,
		"offsets.topic.replication.factor":                 rf,
		"offsets.topic.num.partitions":                     "6",
		"offsets.topic.segment.bytes":                      "16777216",
		"transaction.state.log.replication.factor":         rf,
		"transaction.state.log.min.isr":                    minISR,
		"transaction.state.log.num.partitions":             "6",
		"share.coordinator.state.topic.replication.factor": rf,
		"share.coordinator.state.topic.min.isr":            minISR,
		"share.coordinator.state.topic.num.partitions":     "3",

		// Transactions back to back: let the broker wait for the one before to complete. The maximum is a timeout
		// (default 100 ms) past which a client sees CONCURRENT_TRANSACTIONS and backs off for seconds.
		"add.partitions.to.txn.retry.backoff.ms":     "2",
		"add.partitions.to.txn.retry.backoff.max.ms": "5000",

		"group.initial.rebalance.delay.ms": "0",
		"group.min.session.timeout.ms":     "1000",
		// KIP-848 members learn of changes at heartbeats; default and minimum are 5 s.
		"group.consumer.min.heartbeat.interval.ms": "250",
		"group.consumer.heartbeat.interval.ms":     "500",
		"group.consumer.min.session.timeout.ms":    "3000",
		"group.consumer.session.timeout.ms":        "6000",
		"group.share.min.heartbeat.interval.ms":    "250",
		"group.share.heartbeat.interval.ms":        "500",

		"broker.session.timeout.ms":    sessionMS,
		"broker.heartbeat.interval.ms": "500",
		"replica.lag.time.max.ms":      "5000",

		"num.network.threads":             "2",
		"num.io.threads":                  "4",
		"log.cleaner.backoff.ms":          "1000",
		"log.cleaner.dedupe.buffer.size":  "8388608",
		"log.retention.check.interval.ms": "5000",
		"log.initial.task.delay.ms":       "1000",
	}
}

// clusterID returns 22 characters of URL-safe Base64. The leading A keeps it from looking like a command-line flag.
func clusterID() (string, error) {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", fmt.Errorf("making a Kafka cluster id: %w", err)
	}
	return "A" + base64.RawURLEncoding.EncodeToString(b[:])[:21], nil
}

// kafkaReady asks the broker at addr for its API versions and metadata; member must be a registered broker, and there must
// be a controller.
func kafkaReady(ctx context.Context, addr, member string) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(addr, ",")...), kgo.RequestRetries(0), kgo.DialTimeout(time.Second))
	if err != nil {
		return err
	}
	defer cl.Close()
	req := kmsg.NewPtrMetadataRequest() // the client opens the connection with ApiVersions
	req.Topics = []kmsg.MetadataRequestTopic{}
	res, err := req.RequestWith(ctx, cl)
	if err != nil {
		return fmt.Errorf("asking Kafka at %s for metadata: %w", addr, err)
	}
	if res.ControllerID < 0 {
		return fmt.Errorf("asking Kafka at %s for metadata: no controller yet", addr)
	}
	if member == "" && len(res.Brokers) > 0 {
		return nil
	}
	for _, b := range res.Brokers {
		if fmt.Sprintf("%s:%d", b.Host, b.Port) == member {
			return nil
		}
	}
	return fmt.Errorf("asking Kafka at %s for metadata: broker %s is not registered yet", addr, member)
}
