//go:build servers

// Package archiver runs the archiver's own tests against real Kafka, a real registry and a real S3 server: crashes in
// every gap, zombies, adoption, gaps.
package archiver

import (
	"os"
	"os/exec"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/s3"

	"databus/test/prove"
	"databus/test/servers"
)

func TestArchiverOnRealServers(t *testing.T) {
	// Servers of its own, because its tests delete the catalogue's topics.
	kafka, err := servers.StartKafka(t.Context(), servers.Options{Config: map[string]string{"group.min.session.timeout.ms": "1000"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(kafka.Close)
	registry, err := servers.StartRegistry(t.Context(), servers.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(registry.Close)
	store, err := servers.StartS3(t.Context(), servers.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	bucket := "archiver-tests"
	if _, err := store.Client().CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: &bucket}); err != nil {
		t.Fatal(err)
	}
	// In small size what a real broker or a real bucket may answer in another way than the embedded ones.
	run := "TestArchives|TestCrash|TestZombie|TestFencing|TestTwoInstances|TestBackfillOfLost|TestReplay"
	if prove.Full() {
		run = "."
	}
	cmd := exec.CommandContext(t.Context(), "go", "test", "-count=1", "-timeout=30m", "-run", run, "databus/services/archiver")
	cmd.Env = append(os.Environ(),
		"ARCHIVER_TEST_KAFKA="+kafka.Addr,
		"ARCHIVER_TEST_REGISTRY="+servers.RegistryURL(registry),
		"ARCHIVER_TEST_BUCKET="+store.BucketURL(bucket+"/run-%d"), // the number is the tests' own
		"AWS_ACCESS_KEY_ID="+store.AccessKey, "AWS_SECRET_ACCESS_KEY="+store.SecretKey)
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
}
