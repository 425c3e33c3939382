package topics

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/schemas"
)

func admin(t *testing.T) *kadm.Client {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	client, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return kadm.NewClient(client)
}

func TestApplyTheCatalogue(t *testing.T) {
	adm, all := admin(t), schemas.WithDeadLetters()
	err := Check(t.Context(), adm, all)
	if err == nil || strings.Count(err.Error(), "is missing") != len(all) {
		t.Fatal(err)
	}
	changes, err := Apply(t.Context(), adm, all, Options{ReplicationFactor: 1})
	if err != nil {
		t.Fatal(err)
	}
	if len(changes) != len(all) {
		t.Errorf("%d changes for %d topics", len(changes), len(all))
	}
	if left, err := Compare(t.Context(), adm, all); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if changes, err := Apply(t.Context(), adm, all, Options{ReplicationFactor: 1}); err != nil || len(changes) != 0 {
		t.Errorf("a second run did %v, %v", changes, err)
	}
}

func TestWhatDiffers(t *testing.T) {
	adm := admin(t)
	topic := schemas.Topic{Name: "a.b", Partitions: 4, Cleanup: schemas.Delete, Retention: time.Hour, AppendTime: true}
	other := topic
	other.Name, other.Partitions, other.Cleanup, other.Retention, other.AppendTime = "c.d", 3, schemas.Compact, 0, false
	if _, err := Apply(t.Context(), adm, []schemas.Topic{topic, other}, Options{ReplicationFactor: 1}); err != nil {
		t.Fatal(err)
	}
	other.Partitions, other.Cleanup, other.Retention, other.AppendTime = 8, schemas.Delete, time.Minute, true
	topic.Retention = 2 * time.Hour
	wanted := []schemas.Topic{topic, other}
	err := Check(t.Context(), adm, wanted)
	for _, want := range []string{
		"topic c.d: partitions is 3, the catalogue wants 8; the number of partitions never changes",
		"topic c.d: cleanup.policy is compact, the catalogue wants delete; the policy decides what is deleted",
		"topic c.d: message.timestamp.type is CreateTime, the catalogue wants LogAppendTime; run: databus topics apply",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("missing %q in %v", want, err)
		}
	}
	if strings.Contains(err.Error(), "a.b") {
		t.Error("a different retention keeps services from starting:", err)
	}
	changes, err := Apply(t.Context(), adm, wanted, Options{})
	var m *Mismatch
	if !errors.As(err, &m) || strings.Count(err.Error(), "c.d") != 2 {
		t.Errorf("what cannot be changed: %v", err)
	}
	done := ""
	for _, c := range changes {
		done += c.Topic + " " + c.What + "\n"
	}
	for _, want := range []string{"a.b retention.ms from 3600000 to 7200000", "c.d message.timestamp.type from CreateTime to LogAppendTime", "c.d retention.ms"} {
		if !strings.Contains(done, want) {
			t.Errorf("missing %q in\n%s", want, done)
		}
	}
	left, err := Compare(t.Context(), adm, wanted)
	if err != nil || len(left) != 2 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestUnknownBroker(t *testing.T) {
	client, err := kgo.NewClient(kgo.SeedBrokers("127.0.0.1:1"), kgo.RetryTimeout(200*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := Check(t.Context(), kadm.NewClient(client), schemas.Catalogue()); err == nil || !strings.Contains(err.Error(), "listing topics") {
		t.Error(err)
	}
}
