package client_test

import (
	"context"
	"fmt"
	"log"

	"databus/services/ingest/client"
)

// Records are sealed before they leave the process; whatever fails on the way is sent again under the same request ids.
func ExampleClient_PutBatch() {
	ctx := context.Background()
	c := &client.Client{URL: "http://127.0.0.1:8080", APIKey: "the account's key"}
	key, err := c.FetchPublicKey(ctx)
	if err != nil {
		log.Fatal(err)
	}
	c.PublicKey = key
	results, err := c.PutBatch(ctx, "acme", []client.Record{
		{RequestID: "load-7/1", RecordID: "r1", Fields: map[string]string{"email": "anna@mail.example"}},
		{RequestID: "load-7/2", RecordID: "r2", Delete: true},
	})
	if err != nil {
		log.Fatal(err)
	}
	for _, r := range results {
		fmt.Println(r.RequestID, r.Status, r.PersonID)
	}
}
