//go:build servers

package e2e

import (
	"fmt"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/s3"

	"databus/test/servers"
)

// The same on servers of its own, whose directories are looked through: Kafka's log segments, Cassandra's commit log and
// SSTables, the bucket's files.
func TestNoPlaintextOnRealServers(t *testing.T) {
	var o servers.Options
	kafka, err := servers.StartKafka(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(kafka.Close)
	registry, err := servers.StartRegistry(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(registry.Close)
	cassandra, err := servers.StartCassandra(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cassandra.Close)
	store, err := servers.StartS3(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	bucket := "databus-canaries"
	if _, err := store.Client().CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: &bucket}); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{"AWS_ACCESS_KEY_ID": store.AccessKey, "AWS_SECRET_ACCESS_KEY": store.SecretKey, "AWS_REGION": store.Region} {
		t.Setenv(name, value)
	}
	dir := t.TempDir()
	d := startDev(t, dir, freeAddress(t), "--brokers", kafka.Addr, "--registry", servers.RegistryURL(registry), "--external", "--bucket-url", fmt.Sprintf("s3://%s/%s?path_style=true&region=%s&endpoint=%s", bucket, prefix, store.Region, store.Endpoint),
		"--identity-url", "cassandra://"+cassandra.Addr+"?replication=1&timeout=60s")
	d.mustReady(t)
	places := map[string]string{"Kafka": kafka.Dir, "Cassandra": cassandra.Dir, "bucket": store.Dir}
	noPlaintext(t, d, subjects, subjects/10, places, func() {
		if out, err := cassandra.Nodetool(t.Context(), "flush"); err != nil {
			t.Fatalf("nodetool flush: %v\n%s", err, out)
		}
	})
}
