//go:build servers

package e2e

import (
	"errors"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/s3"

	"databus/test/prove"
	"databus/test/servers"
)

// The same on servers of its own, whose directories are looked through: Kafka's log segments, Cassandra's commit log and
// SSTables, the bucket's files.
func TestNoPlaintextOnRealServers(t *testing.T) {
	// An index of Kafka's takes 10 MiB before anything is in it, and there are two to each partition.
	small := servers.Options{Config: map[string]string{"log.index.size.max.bytes": "65536"}}
	var kafka, registry *servers.Process
	var cassandra *servers.CassandraNode
	var store *servers.S3Server
	var errs [4]error
	var wg sync.WaitGroup
	wg.Go(func() { kafka, errs[0] = servers.StartKafka(t.Context(), small) })
	wg.Go(func() { registry, errs[1] = servers.StartRegistry(t.Context(), servers.Options{}) })
	wg.Go(func() { cassandra, errs[2] = servers.StartCassandra(t.Context(), servers.Options{}) })
	wg.Go(func() { store, errs[3] = servers.StartS3(t.Context(), servers.Options{}) })
	wg.Wait()
	for i, started := range []interface{ Close() }{kafka, registry, cassandra, store} {
		if errs[i] == nil {
			t.Cleanup(started.Close)
		}
	}
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
	bucket := "databus-canaries"
	if _, err := store.Client().CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: &bucket}); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{"AWS_ACCESS_KEY_ID": store.AccessKey, "AWS_SECRET_ACCESS_KEY": store.SecretKey, "AWS_REGION": store.Region} {
		t.Setenv(name, value)
	}
	dir := t.TempDir()
	d := startDev(t, dir, freeAddress(t), "--brokers", kafka.Addr, "--registry", servers.RegistryURL(registry), "--external", "--bucket-url", store.BucketURL(bucket+"/"+prefix),
		"--identity-url", "cassandra://"+cassandra.Addr+"?replication=1&timeout=60s")
	d.mustReady(t)
	places := map[string]string{"Kafka": kafka.Dir, "Cassandra": cassandra.Dir, "bucket": store.Dir}
	subjects := prove.Size(200, 1000)
	noPlaintext(t, d, subjects, subjects/10, places, func() {
		if out, err := cassandra.Nodetool(t.Context(), "flush"); err != nil {
			t.Fatalf("nodetool flush: %v\n%s", err, out)
		}
	})
}
