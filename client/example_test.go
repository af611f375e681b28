package client_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/roomlog/roomlog/client"
)

// servers, tlsConfig and token come from the profile of a real cluster; here
// from one that lives in the test.
var servers, tlsConfig, token = client.ClusterForExamples()

func dial() *client.Client {
	c, err := client.Dial(context.Background(), servers, client.WithTLS(tlsConfig), client.WithToken(token))
	if err != nil {
		log.Fatal(err)
	}
	return c
}

func ExampleDial() {
	ctx := context.Background()
	c, err := client.Dial(ctx, servers,
		client.WithTLS(tlsConfig),
		client.WithToken(token),
		client.WithName("ann"))
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	nodes, err := c.Nodes(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for _, n := range nodes {
		fmt.Println(n.Name, n.Alive)
	}
	// Output:
	// n1 true
	// n2 true
}

func ExampleClient_Publish() {
	c := dial()
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()

	for _, text := range []string{"hello", "anybody here?"} {
		receipt, err := c.Publish(ctx, "example publish", []byte(text), client.As("ann"))
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(receipt.Room, receipt.Seq, receipt.Duplicate)
	}
	// Output:
	// example publish 1 false
	// example publish 2 false
}

func ExampleClient_PublishAsync() {
	c := dial()
	defer c.Close()
	ctx := context.Background()

	var last *client.Pending
	for i := range 1000 {
		p, err := c.PublishAsync(ctx, "example async", fmt.Appendf(nil, "message %d", i))
		if err != nil {
			log.Fatal(err)
		}
		last = p
	}
	if err := c.Flush(ctx); err != nil { // the first that failed, if any did
		log.Fatal(err)
	}
	receipt, err := last.Wait(ctx)
	fmt.Println(receipt.Seq, err)
	// Output: 1000 <nil>
}

func ExampleClient_Subscribe() {
	c := dial()
	defer c.Close()
	ctx := context.Background()
	for _, text := range []string{"one", "two", "three"} {
		if _, err := c.Publish(ctx, "example subscribe", []byte(text)); err != nil {
			log.Fatal(err)
		}
	}

	saved := uint64(1) // the last message dealt with
	for msg, err := range c.Subscribe(ctx, "example subscribe", client.After(saved)) {
		if err != nil {
			log.Fatal(err)
		}
		if msg.Gap != nil {
			fmt.Println("missing:", msg.Gap.From, "to", msg.Gap.To, msg.Gap.Reason)
			continue
		}
		fmt.Println(msg.Seq, string(msg.Payload))
		if msg.Seq == 3 {
			break // ends the subscription
		}
	}
	// Output:
	// 2 two
	// 3 three
}

func ExampleClient_Room() {
	c := dial()
	defer c.Close()
	ctx := context.Background()

	if _, err := c.Publish(ctx, "example room", []byte("first")); err != nil {
		log.Fatal(err)
	}
	for _, room := range []string{"example room", "never used"} {
		info, err := c.Room(ctx, room)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(info.Room, info.First, info.Last)
	}
	// Output:
	// example room 1 1
	// never used 1 0
}
