//go:build servers

// Package blob runs the bucket port's conformance suite on a real S3 server.
package blob

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"

	"databus/pkg/blob"
	"databus/pkg/blob/blobtest"
	"databus/test/servers"
)

func TestMain(m *testing.M) { servers.Main(m) }

// bucketURL makes a bucket that no other run on the same server has.
func bucketURL(t *testing.T, name string) string {
	t.Helper()
	server := servers.S3(t)
	t.Setenv("AWS_ACCESS_KEY_ID", server.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", server.SecretKey)
	bucket := fmt.Sprintf("blob-%s-%d-%d", name, os.Getpid(), time.Now().UnixNano()%1e9)
	if _, err := server.Client().CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: &bucket}); err != nil {
		t.Fatal(err)
	}
	return server.BucketURL(bucket)
}

func TestS3(t *testing.T) { suite(t, "suite", "") }

// Every object that has a byte is uploaded in parts.
func TestS3InParts(t *testing.T) { suite(t, "parts", "&parts_from=1&part_size=5242880") }

func suite(t *testing.T, name, params string) {
	base := bucketURL(t, name) + params
	n := 0
	blobtest.Run(t, func(t *testing.T) blob.Bucket {
		n++
		b, err := blob.Open(t.Context(), strings.Replace(base, "?", fmt.Sprintf("/prefix/%d?", n), 1))
		if err != nil {
			t.Fatal(err)
		}
		return b
	})
}

func TestS3WithoutPrefix(t *testing.T) {
	b, err := blob.Open(t.Context(), bucketURL(t, "plain"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Put(t.Context(), "a/b", strings.NewReader("x"), blob.PutOptions{CreateOnly: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Put(t.Context(), "a/b", strings.NewReader("y"), blob.PutOptions{CreateOnly: true}); !errors.Is(err, blob.ErrExists) {
		t.Fatalf("%v, want ErrExists", err)
	}
}

func TestS3MissingBucketAndWrongKeys(t *testing.T) {
	base := bucketURL(t, "errors")
	_, err := blob.Open(t.Context(), strings.Replace(base, "s3://blob-errors", "s3://blob-missing", 1))
	if err == nil || !strings.Contains(err.Error(), "create the bucket first") {
		t.Errorf("a missing bucket: %v", err)
	}
	t.Setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
	_, err = blob.Open(t.Context(), base)
	if err == nil || !strings.Contains(err.Error(), "credentials") || strings.Contains(err.Error(), "wrong-secret") {
		t.Errorf("wrong credentials: %v", err)
	}
}

// The pinned server knows no lifecycle rules, and its answer is understood as that: whoever prepares the bucket goes on.
func TestServerWithoutLifecycleRules(t *testing.T) {
	b, err := blob.Open(t.Context(), bucketURL(t, "rules"))
	if err != nil {
		t.Fatal(err)
	}
	if set, err := b.(*blob.S3).DropDeadParts(t.Context()); set || !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("%t, %v", set, err)
	}
}
