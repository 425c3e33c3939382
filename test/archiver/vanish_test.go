//go:build servers

package archiver

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/embedded"
	"databus/pkg/service"
	"databus/services/archiver"
)

// The bucket vanishes under a running archiver, which says so and waits; when there is one of its name again, everything
// is archived in it.
func TestBucketVanishes(t *testing.T) {
	w := newWorld(t, strings.Join(embedded.ForTest(t).Broker.Seeds(), ","))
	client, err := kgo.NewClient(w.opts...)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	produce := func(from int) {
		t.Helper()
		records, err := w.events(from, 300)
		if err == nil {
			err = client.ProduceSync(t.Context(), records...).FirstErr()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	h := service.NewHealth()
	a, err := archiver.Open(w.config(50), archiver.Parts{
		Client: w.opts, TransactionalID: "vanish", TransactionTimeout: 5 * time.Second, Bucket: w.open(w.bucket), Codec: w.codec, SpoolDir: t.TempDir(),
		Log: slog.New(slog.DiscardHandler), Health: h,
	})
	if err != nil {
		t.Fatal(err)
	}
	store := w.store.Client()
	if _, err := store.DeleteBucket(t.Context(), &s3.DeleteBucketInput{Bucket: &w.bucket}); err != nil {
		t.Fatal(err)
	}
	produce(0)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		_, states := h.Ready()
		said := ""
		for _, s := range states {
			said += s.Reason
		}
		if strings.Contains(said, "NoSuchBucket") {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("nothing says that the bucket is missing: %s", said)
		}
	}
	produce(300)
	if _, err := store.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: &w.bucket}); err != nil {
		t.Fatal(err)
	}
	w.archived(time.Minute, func() string { return "" })
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	w.verify("vanished")
}
