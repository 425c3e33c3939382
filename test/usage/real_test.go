//go:build servers

package usage

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"

	"databus/pkg/embedded"
	"databus/test/prove"
	"databus/test/servers"
)

// onKafka is a world on brokers that run, with a registry in this process.
func onKafka(t testing.TB, brokers string) *world {
	t.Helper()
	registry, err := embedded.StartRegistry(embedded.RegistryOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = registry.Close() })
	return newWorld(t, programs(t), strings.Split(brokers, ","), registry.URL(), usageTopics())
}

// startKafka starts a broker of the test's own, because the proofs use the catalogue's topics.
func startKafka(t testing.TB) (addr string) {
	t.Helper()
	kafka, err := servers.StartKafka(t.Context(), servers.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(kafka.Close)
	return kafka.Addr
}

func realKafka(t testing.TB) *world { t.Helper(); return onKafka(t, startKafka(t)) }

func TestProveKillsOnKafka(t *testing.T) {
	proveKills(t, realKafka(t), prove.Size(5, 100), prove.Size(1, 3))
}

// Registry and S3 server are those of the other tests.
func TestProveHistoryOnServers(t *testing.T) {
	registry, store := servers.Registry(t), servers.S3(t)
	bucket := fmt.Sprintf("history-%d-%d", os.Getpid(), time.Now().UnixNano()%1e12)
	if _, err := store.Client().CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: &bucket}); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", store.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", store.SecretKey)
	w := newWorld(t, programs(t), []string{startKafka(t)}, registry, usageTopics())
	proveHistory(t, w, store.BucketURL(bucket), prove.Size(20_000, 200_000))
}
