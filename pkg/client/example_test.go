package client_test

import (
	"context"
	"fmt"
	"log"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/client"
	"databus/schemas/codec"
)

// A producer needs the addresses of Kafka and the registry, and ingest's public key; it holds no secret.
func Example() {
	ctx := context.Background()
	key, err := client.FetchKey(ctx, "http://127.0.0.1:8080")
	if err != nil {
		log.Fatal(err)
	}
	c, err := client.New(ctx, client.Options{
		Kafka: []kgo.Opt{kgo.SeedBrokers("127.0.0.1:9092")},
		Codec: codec.New(codec.NewRegistry("http://127.0.0.1:8081"), codec.Options{}),
		Key:   key,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	answer, err := c.Send(ctx, "acme", client.Record{
		RequestID: "order-4711", // sent again under the same id, nothing changes
		RecordID:  "r1",
		Fields:    map[string]string{"email": "anna@mail.example"},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("that is person", answer.PersonID)
}
